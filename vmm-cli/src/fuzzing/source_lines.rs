//! DWARF tables of any ELF file.

use vmm_loader::{ElfOptions, elf};

use crate::source_lines::SourceLines;

/// Looks up source lines in an ELF file: at its entry, and at the start and the end of its segments.
pub fn source_lines(file: &[u8]) {
    let Ok(plan) = elf::plan(file, &ElfOptions::default()) else { return };
    let lines = SourceLines::default();
    let entry = plan.entry().map_or(0, |entry| entry.0);
    let ends = plan.segments().iter().take(4).flat_map(|segment| {
        let start = segment.virt.0;
        [start, start.wrapping_add(segment.mem_size / 2), start.wrapping_add(segment.mem_size - 1)]
    });
    for address in [entry, entry.wrapping_add(8)].into_iter().chain(ends) {
        if let Some(line) = lines.at(file, &plan, address) {
            assert!(!line.contains(char::is_control), "{line:?} controls the terminal");
        }
    }
}
