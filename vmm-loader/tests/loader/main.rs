//! Tests of the public API: plans, error messages and guest memory for files that the tests build.
#![cfg(test)]

mod bad_elfs;
mod boot;
#[path = "../../src/fuzzing/elf_properties.rs"]
mod elf_properties;
#[path = "../support/golden.rs"]
mod golden;
mod image;
mod plans;
mod properties;
