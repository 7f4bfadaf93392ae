//! Properties that coverage-guided fuzzing checks. With the cargo feature `fuzzing`, and in the tests of this crate.
//!
//! Each function takes any bytes and panics if a property does not hold. `vmm-loader/fuzz` has a target for each
//! (`cargo xtask fuzz`); a test calls each with the files of its corpus.
//!
//! | function | bytes | properties |
//! |---|---|---|
//! | [`elf`] | ELF file, loaded at a base that its last byte chooses | segments and relocations lie in the file and do not overlap; nothing is written outside the plan; symbols are found by their names and addresses |
//! | [`boot`] | kernel, started by each boot protocol | boot information, modules and image do not overlap and lie in usable memory; registers point to them |
//! | [`notes`] | contents of a note segment | a configuration is part of the file, and the one that was put there is found |
//!
//! For all of them: no panic, no endless loop, and memory in proportion to the file.

mod boot;
#[cfg(test)]
mod corpus;
mod elf;
#[expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]
mod elf_properties;
mod notes;

pub use boot::boot;
pub use elf::elf;
pub use notes::notes;

#[cfg(test)]
mod tests {
    #[test]
    fn properties_hold_for_each_corpus() {
        super::corpus::check(&[("elf", super::elf), ("boot", super::boot), ("notes", super::notes)]);
    }
}
