//! The front-end half of `vmm-cli` as a library: the TOML file, its diagnostics and the exit statuses.
//!
//! The program itself is `main.rs`. What is here runs without a terminal and without KVM, so tests and the fuzzer
//! can reach it.
//!
//! - [`config`] turns a TOML file into a [`Config`](config::Config) or into a list of mistakes.
//! - [`diagnostic`] shows mistakes: as text with the line and a caret, or as JSON.
//! - [`status`] is the table of exit statuses.
#![forbid(unsafe_code)]

pub mod config;
pub mod diagnostic;
pub mod status;
