//! The front-end half of `vmm-cli` as a library: the TOML file, its diagnostics and the exit statuses.
//!
//! The program itself is `main.rs`. What is here runs without a terminal and without KVM, so tests and the fuzzer
//! can reach it.
//!
//! ```
//! use std::path::Path;
//! use vmm_cli::config::{Config, Overrides};
//!
//! let text = "mode = \"long\"\nmemory = { size = \"2MB\" }\nguest = { elf = \"hello.elf\" }\n";
//! let mistakes = Config::from_text(text, Path::new("hello.toml"), &Overrides::new()).unwrap_err();
//! assert_eq!(mistakes.status().code(), 105);
//! assert!(mistakes.to_plain().contains("hello.toml:2:19"));
//! assert!(mistakes.to_plain().contains("`2MiB`"));
//! ```
//!
//! - [`config`] turns a TOML file into a [`Config`](config::Config) or into a list of mistakes.
//! - [`diagnostic`] shows mistakes: as text with the line and a caret, or as JSON.
//! - [`place`] reads addresses, symbols and ranges from the command line.
//! - [`say`] writes to standard error.
//! - [`status`] is the table of exit statuses.
#![forbid(unsafe_code)]

pub mod config;
pub mod diagnostic;
pub mod place;
pub mod say;
pub mod status;
