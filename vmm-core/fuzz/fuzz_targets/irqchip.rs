//! Fuzz target of [`vmm_core::fuzzing::irqchip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vmm_core::fuzzing::irqchip(bytes));
