//! Writes an ELF core file of a stopped guest, for gdb: registers and all memory.
//!
//! The class is that of the vCPU's code: 64-bit once long mode is active, else 32-bit, so that gdb decodes the
//! registers correctly. The file has the memory regions in the order of physical addresses, with pages of zeros as
//! holes. Each range that the page tables map is a PT_LOAD segment with its virtual address in p_vaddr and its physical
//! address in p_paddr. Mappings of one range share its bytes. Unmapped memory has no virtual address, so each region as
//! a whole is also a segment of an OS-specific type, which gdb ignores and `readelf -l` shows.
//!
//! gdb needs an executable and a core file of the same class. For a 32-bit file that switched to long mode, open the
//! core file first and add the symbols: `gdb -ex 'core-file CORE' -ex 'add-symbol-file GUEST'`.
//!
//! Sources: gABI, chapters 4 and 5 (headers, notes); Linux, include/linux/elfcore.h (`struct elf_prstatus`),
//! arch/x86/include/asm/user_{32,64}.h (the order of registers).

mod headers;
mod notes;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use thiserror::Error;
use vm_memory::Bytes;
use vmm_core::PAGE_SIZE;
use vmm_core::cpu::control_regs::Efer;
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::kvm_sys_wrap::bindings::kvm_sregs;
use vmm_core::layout::LayoutRegion;
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::machine::sparse::nonzero_runs;
use vmm_core::paging::merge::{MappedRange, mappings};
use vmm_core::spec::PagePermissions;
use vmm_core::spec::gpa_range::GpaRange;
use vmm_core::{Gpa, Gva};

use crate::diagnostic::Diagnostic;
use crate::output_file::OutputFile;
use headers::{Class, LoadSegment};

/// Number of bytes read at once.
const CHUNK: usize = 1 << 16;

/// Reason why a core file cannot be written.
#[derive(Debug, Error)]
pub(crate) enum CoreError {
    /// A call to KVM failed.
    #[error("cannot read the vCPU: {0}")]
    Vcpu(#[from] vmm_core::kvm_sys_wrap::Error),
    /// The guest has more mappings than an ELF file can count.
    #[error("the page tables map {0} separate ranges, more than it can hold")]
    TooMany(usize),
    /// A 32-bit guest has memory above 4 GiB.
    #[error("with 32 bits it cannot hold memory up to {0}")]
    TooLarge(Gpa),
    /// Writing failed.
    #[error("{0}")]
    Write(#[from] io::Error),
}

/// Writes the core file of a stopped machine. `end` is the end of its run, if it ended. `before` are the registers before the
/// end, for a vCPU that the host reset.
///
/// # Errors
/// Returns the error as a diagnostic ([`CoreError`]). The file may then be incomplete.
pub(crate) fn write(
    machine: &Machine,
    end: Option<&End>,
    before: Option<&CpuState>,
    to: &mut OutputFile,
) -> Result<(), Diagnostic> {
    write_to(machine, end, before, to.file()).map_err(|error| to.write_error(&error))
}

fn write_to(
    machine: &Machine,
    end: Option<&End>,
    before: Option<&CpuState>,
    file: &File,
) -> Result<(), CoreError> {
    let vcpu = machine.vcpu();
    let mut state = vcpu.save()?;
    if let Some(before) = before {
        (state.regs, state.sregs) = (before.regs, before.sregs);
    }
    let long = Efer::from_bits_retain(state.sregs.efer).contains(Efer::LMA);
    let class = if long { Class::Bits64 } else { Class::Bits32 };
    let notes = notes::of_vcpu(class, &state, end);

    let regions = machine.layout().memory();
    let mapped = mapped(machine, &state.sregs);
    let count = 1 + mapped.len() + regions.len();
    if count >= headers::MAX_PROGRAM_HEADERS {
        return Err(CoreError::TooMany(mapped.len()));
    }
    let start = class.headers_size(count).saturating_add(u64::try_from(notes.len()).unwrap_or(u64::MAX));
    let start = start.next_multiple_of(PAGE_SIZE);
    let placed = place(regions, start);
    let file_end = placed.last().map_or(start, |(range, offset)| offset.saturating_add(range.size()));
    if let Some((last, _)) = placed.last()
        && class == Class::Bits32
        && file_end.max(last.end().0) > 1 << 32
    {
        return Err(CoreError::TooLarge(last.end()));
    }

    let mut loads = Vec::new();
    for mapping in &mapped {
        loads.extend(pieces(mapping, &placed));
    }
    let loads = join(loads);
    let bytes = headers::bytes(class, &notes, &loads, &placed);
    file.write_all_at(&bytes, 0)?;
    for (range, offset) in &placed {
        copy(machine, *range, *offset, file)?;
    }
    Ok(file.set_len(file_end)?)
}

/// Returns all mapped ranges. Without paging, all of memory is mapped.
fn mapped(machine: &Machine, sregs: &kvm_sregs) -> Vec<VirtualMapping> {
    let walker = machine.walker_from_sregs(sregs);
    if walker.scheme.is_none() {
        let access = PagePermissions { writable: true, user: true, executable: true };
        let whole = machine.layout().memory().iter().map(|region| region.range);
        return whole.map(|range| VirtualMapping { gva: Gva(range.start().0), range, access }).collect();
    }
    let mapping = |mapped: MappedRange| {
        Some(VirtualMapping { gva: mapped.gva, range: mapped.physical()?, access: mapped.access })
    };
    mappings(&walker, machine.memory()).ranges.into_iter().filter_map(mapping).collect()
}

/// Virtual range and the physical range that it maps.
#[derive(Debug, Clone, Copy)]
struct VirtualMapping {
    gva: Gva,
    range: GpaRange,
    access: PagePermissions,
}

/// Assigns each region an offset in the file.
fn place(regions: &[LayoutRegion], start: u64) -> Vec<(GpaRange, u64)> {
    let mut offset = start;
    regions
        .iter()
        .map(|region| {
            let at = offset;
            offset = offset.saturating_add(region.range.size());
            (region.range, at)
        })
        .collect()
}

/// Returns the parts of a mapping that are backed by memory.
fn pieces(mapping: &VirtualMapping, placed: &[(GpaRange, u64)]) -> Vec<LoadSegment> {
    let found = placed.iter().filter_map(|(region, offset)| {
        let part = mapping.range.intersection(*region)?;
        Some(LoadSegment {
            gva: mapping.gva.0.wrapping_add(part.start().0 - mapping.range.start().0),
            gpa: part.start().0,
            size: part.size(),
            offset: offset.saturating_add(part.start().0 - region.start().0),
            access: mapping.access,
        })
    });
    found.collect()
}

/// Joins adjacent segments that differ only in their page size.
fn join(loads: Vec<LoadSegment>) -> Vec<LoadSegment> {
    let mut joined: Vec<LoadSegment> = Vec::new();
    for load in loads {
        match joined.last_mut().filter(|last| last.continued_by(&load)) {
            Some(last) => last.size = last.size.saturating_add(load.size),
            None => joined.push(load),
        }
    }
    joined
}

/// Copies a region except for pages of zeros.
fn copy(machine: &Machine, range: GpaRange, offset: u64, file: &File) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut done = 0;
    while done < range.size() {
        let length = usize::try_from(range.size() - done).unwrap_or(CHUNK).min(CHUNK);
        let Some(chunk) = buffer.get_mut(..length) else { break };
        let at = Gpa(range.start().0.saturating_add(done));
        machine.memory().read_slice(chunk, at.into()).map_err(io::Error::other)?;
        for stretch in nonzero_runs(chunk) {
            let at = offset.saturating_add(done).saturating_add(stretch.start as u64);
            file.write_all_at(chunk.get(stretch).unwrap_or_default(), at)?;
        }
        done = done.saturating_add(CHUNK as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RWX: PagePermissions = PagePermissions { writable: true, user: false, executable: true };

    fn span(start: u64, end: u64) -> GpaRange {
        GpaRange::between(Gpa(start), Gpa(end)).unwrap()
    }

    #[test]
    fn a_mapping_over_a_hole_becomes_the_parts_with_memory() {
        let placed = [(span(0, 0x2000), 0x1000), (span(0x4000, 0x6000), 0x3000)];
        let mapping =
            VirtualMapping { gva: Gva(0xffff_8000_0000_0000), range: span(0x1000, 0x5000), access: RWX };
        let loads = pieces(&mapping, &placed);
        let found: Vec<_> =
            loads.iter().map(|load| (load.gva & 0xffff, load.gpa, load.size, load.offset)).collect();
        assert_eq!(found, [(0, 0x1000, 0x1000, 0x2000), (0x3000, 0x4000, 0x1000, 0x3000)]);
    }

    #[test]
    fn what_continues_is_joined() {
        let load = |gva, gpa, offset| LoadSegment { gva, gpa, size: 0x1000, offset, access: RWX };
        let joined =
            join(vec![load(0, 0, 0x1000), load(0x1000, 0x1000, 0x2000), load(0x2000, 0x5000, 0x6000)]);
        assert_eq!(joined.iter().map(|load| load.size).collect::<Vec<_>>(), [0x2000, 0x1000]);
    }
}
