//! Runs bare-metal x86 programs on KVM from one TOML file.
#![forbid(unsafe_code)]
fn main() {}
