//! Fuzz target of [`vmm_cli::fuzzing::gdb`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_cli::fuzzing::gdb(bytes));
