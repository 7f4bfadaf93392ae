//! Steps for guest memory: host memory, slots, and files mapped over them.

use kvm_sys_wrap::{Call, FileRange, Gpa};

use super::steps::{number_field, value, words};
use super::{Argument, ArgumentDirection, SequenceStep};
use crate::machine::backing;
use crate::spec::{Interrupts, MachineSpec, MemoryBacking, MemoryRegion};

const DONT_DUMP: &str = "MADV_DONTDUMP";
const DONT_DUMP_REASON: &str = "keeps the guest's data out of a core dump of this process";

/// Returns step 4: a memory slot.
pub(super) fn slot(number: u32, region: &MemoryRegion) -> Vec<SequenceStep> {
    let mut steps = Vec::new();
    if region.read_only {
        steps.push(SequenceStep::capability("KVM_CAP_READONLY_MEM", "read-only slots are an extension"));
    }
    steps.extend(reserve(region));
    for (wanted, name, why) in [
        (true, DONT_DUMP, DONT_DUMP_REASON),
        (region.mergeable, "MADV_MERGEABLE", "lets the host keep equal pages of several guests once"),
        (region.huge_pages, "MADV_HUGEPAGE", "asks the host for 2 MiB pages: fewer TLB misses"),
    ] {
        if wanted {
            steps.push(advice(name, why));
        }
    }
    let fields = vec![
        number_field("slot", number.into()),
        number_field("flags", if region.read_only { 2 } else { 0 }),
        number_field("guest_phys_addr", region.address.0),
        number_field("memory_size", region.size),
        words("userspace_addr", "the host address from mmap"),
    ];
    let why = if region.read_only {
        "makes the host memory appear in the guest's physical address space; flag KVM_MEM_READONLY: its writes exit"
    } else {
        "makes the host memory appear in the guest's physical address space"
    };
    steps.push(
        SequenceStep::call(
            Call::SetUserMemoryRegion,
            ArgumentDirection::Into,
            Argument::Struct { name: "kvm_userspace_memory_region", fields },
        )
        .why(why),
    );
    steps
}

/// Returns the steps for the host memory of a slot.
fn reserve(region: &MemoryRegion) -> Vec<SequenceStep> {
    let size = region.size;
    let mut steps = Vec::new();
    let why = match region.backing {
        MemoryBacking::Anonymous => {
            "the guest's memory is memory of this process; a page that is never accessed costs nothing"
        }
        MemoryBacking::Memfd => "the file's pages become memory of this process; others can map them too",
        MemoryBacking::Hugetlb => "huge pages of the host's pool, reserved at once: no access can fail later",
    };
    if region.backing == MemoryBacking::Memfd {
        steps.push(
            SequenceStep::call(Call::MemfdCreate, ArgumentDirection::Into, value(format!("{size:#x} bytes")))
                .returns("the descriptor of a file in memory")
                .why("a file without a name, of the slot's size, sealed against shrinking"),
        );
    }
    let words = backing(region.backing).describe();
    steps.push(
        SequenceStep::call(Call::Mmap, ArgumentDirection::Into, value(format!("{size:#x} bytes, {words}")))
            .returns("a host address")
            .why(why),
    );
    steps
}

/// Returns a `madvise`.
fn advice(name: &str, why: &'static str) -> SequenceStep {
    SequenceStep::call(Call::Madvise, ArgumentDirection::Into, value(name))
        .returns("0 (errors are ignored)")
        .why(why)
}

/// Part of a file over a slot's memory.
pub(super) fn overlay(address: Gpa, range: &FileRange) -> [SequenceStep; 2] {
    let map = SequenceStep::call(Call::Mmap, ArgumentDirection::Into, value(range.to_string()))
        .returns("the host address of the slot's memory that it replaces")
        .why(format!(
            "the file's pages appear at {address} without being read: a page is fetched when the guest touches it, and \
             copied when it writes there"
        ));
    [map, advice(DONT_DUMP, DONT_DUMP_REASON)]
}

/// A copy takes the place of the files ([`crate::fetch`]).
pub(super) fn fetch(spec: &MachineSpec, mapped: &[(Gpa, FileRange)]) -> Option<SequenceStep> {
    let is_watched = spec.interrupts == Interrupts::None && !mapped.is_empty();
    is_watched.then(|| {
        SequenceStep::call(
            Call::Mremap,
            ArgumentDirection::Into,
            Argument::Later("an anonymous copy of the file's pages".to_owned()),
        )
        .returns("the host address of the slot's memory that it replaces")
        .why("each page of a file costs a fault; a timer checks the number of faults")
        .each_time("the guest has accessed much of its files")
    })
}
