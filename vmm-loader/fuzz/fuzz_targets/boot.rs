//! Fuzz target of [`vmm_loader::fuzzing::boot`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_loader::fuzzing::boot(bytes));
