//! Fuzz target of [`vmm_cli::fuzzing::note`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_cli::fuzzing::note(bytes));
