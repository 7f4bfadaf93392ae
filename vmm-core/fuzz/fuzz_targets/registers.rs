//! Fuzz target of [`vmm_core::fuzzing::registers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_core::fuzzing::registers(bytes));
