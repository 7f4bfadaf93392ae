//! Fuzz target of [`vmm_cli::fuzzing::source_lines`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_cli::fuzzing::source_lines(bytes));
