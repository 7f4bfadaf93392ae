//! Fuzz target of [`vmm_cli::fuzzing::message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_cli::fuzzing::message(bytes));
