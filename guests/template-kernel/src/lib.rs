//! What the kernel and its tests share.
//!
//! - [`boot`]: from the first instruction to the first line of Rust
//! - [`serial`]: text on the serial port, and the macros [`print!`] and [`println!`]
//! - [`exit`]: the end of the run, with a status
//! - [`testing`]: tests that run in the kernel, and the macro [`tests!`]

#![no_std]

pub mod boot;
pub mod exit;
pub mod port;
pub mod serial;
pub mod testing;
