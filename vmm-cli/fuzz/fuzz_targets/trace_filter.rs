//! Fuzz target of [`vmm_cli::fuzzing::trace_filter`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_cli::fuzzing::trace_filter(bytes));
