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
mod elf;
mod notes;

pub use boot::boot;
pub use elf::elf;
pub use notes::notes;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    type Target = (&'static str, fn(&[u8]));

    const TARGETS: [Target; 3] = [("elf", super::elf), ("boot", super::boot), ("notes", super::notes)];

    #[test]
    fn properties_hold_for_each_corpus() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, run) in TARGETS {
            run(&[]);
            // A package of this crate has no corpus.
            for entry in fs::read_dir(directory.join(name)).into_iter().flatten() {
                run(&fs::read(entry.unwrap().path()).unwrap());
            }
        }
    }
}
