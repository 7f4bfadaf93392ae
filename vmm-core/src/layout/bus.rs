//! Guest-physical address space of the layout: memory regions, KVM's own pages, devices.
//!
//! The kernel checks only that memory slots do not overlap each other. Overlaps of memory with KVM's pages and devices are
//! found here, before there is a VM.

use super::{LayoutEntry, LayoutProblem, LayoutRegion, RangeOwner};
use crate::Gpa;
use crate::PAGE_SIZE;
use crate::devices;
use crate::spec::gpa_range::GpaRange;
use crate::spec::{Interrupts, MachineSpec};

/// Default address of KVM's identity map (api.rst, KVM_SET_IDENTITY_MAP_ADDR).
const IDENTITY_MAP: Gpa = Gpa(0xfffb_c000);
/// A physical address has at most 52 bits.
const PHYSICAL_END: u64 = 1 << 52;

/// Memory and everything else at guest-physical addresses.
pub(super) struct AddressSpace {
    /// Memory, sorted by address.
    pub(super) memory: Vec<LayoutRegion>,
    /// KVM's pages and devices, which no memory may overlap.
    pub(super) reserved: Vec<LayoutEntry>,
}

impl AddressSpace {
    /// Collects memory, KVM's pages and devices; those that are invalid become problems.
    pub(super) fn new(spec: &MachineSpec, problems: &mut Vec<LayoutProblem>) -> Self {
        Self { memory: memory(spec, problems), reserved: reserved(spec, problems) }
    }

    /// Returns the ranges that a page can map: memory and devices, sorted by address.
    pub(super) fn mappable(&self) -> Vec<GpaRange> {
        let devices = self.reserved.iter().filter(|placed| matches!(placed.owner, RangeOwner::Device(_)));
        let mut spans: Vec<GpaRange> = self.memory.iter().map(|region| region.range).collect();
        spans.extend(devices.map(|placed| placed.range));
        spans.sort();
        spans
    }

    /// Returns the memory regions as ranges with an owner.
    pub(super) fn regions(&self) -> impl Iterator<Item = LayoutEntry> {
        self.memory
            .iter()
            .map(|region| LayoutEntry { range: region.range, owner: RangeOwner::Memory(region.number) })
    }
}

/// Returns the valid memory regions, sorted by address.
fn memory(spec: &MachineSpec, problems: &mut Vec<LayoutProblem>) -> Vec<LayoutRegion> {
    if spec.memory.is_empty() {
        problems.push(LayoutProblem::NoMemory);
    }
    let mut memory = Vec::new();
    for (number, region) in (1..).zip(&spec.memory) {
        for (field, value) in [("address", region.address.0), ("size", region.size)] {
            if !value.is_multiple_of(PAGE_SIZE) {
                problems.push(LayoutProblem::RegionMisaligned { number, field, value });
            }
        }
        if region.size == 0 {
            problems.push(LayoutProblem::EmptyRegion { number });
            continue;
        }
        let owner = RangeOwner::Memory(number);
        if let Some(entry) = bounded(owner, region.address, region.size, PHYSICAL_END, problems) {
            memory.push(LayoutRegion { number, range: entry.range, read_only: region.read_only });
        }
    }
    memory.sort_by_key(|region| region.range);
    memory
}

/// Returns KVM's own pages and the devices in the address space.
fn reserved(spec: &MachineSpec, problems: &mut Vec<LayoutProblem>) -> Vec<LayoutEntry> {
    let mut reserved = Vec::new();
    let address = spec.tss_address;
    if !address.is_aligned(PAGE_SIZE) {
        problems.push(LayoutProblem::TssAddressMisaligned(address));
    }
    match GpaRange::new(address, 3 * PAGE_SIZE) {
        Some(range) if range.end().0 <= 1 << 32 => {
            reserved.push(LayoutEntry { range, owner: RangeOwner::TssPages });
        }
        Some(_) | None => problems.push(LayoutProblem::TssAddressTooHigh(address)),
    }
    reserved.extend(
        GpaRange::new(IDENTITY_MAP, PAGE_SIZE)
            .map(|range| LayoutEntry { range, owner: RangeOwner::IdentityMap }),
    );
    let devices = devices::installed(&spec.devices);
    let windows = devices.iter().filter_map(|device| {
        let (start, length) = device.window()?;
        Some((device.name, start, length))
    });
    for (name, at, size) in windows.chain(controllers(spec.interrupts)) {
        let owner = RangeOwner::Device(name.to_owned());
        reserved.extend(bounded(owner, at, size, PHYSICAL_END, problems));
    }
    reserved
}

/// Address of the registers of the local APICs.
pub(crate) const LOCAL_APIC: Gpa = Gpa(0xfee0_0000);
/// Address of the registers of the IOAPIC.
pub(crate) const IOAPIC: Gpa = Gpa(0xfec0_0000);

/// Returns the interrupt controllers in the address space (SDM vol. 3, 10.4.1; 82093AA, 3.0).
fn controllers<'a>(interrupts: Interrupts) -> impl Iterator<Item = (&'a str, Gpa, u64)> {
    let apic = ("local-apic", LOCAL_APIC, PAGE_SIZE);
    let ioapic = ("ioapic", IOAPIC, PAGE_SIZE);
    match interrupts {
        Interrupts::None => [None, None],
        Interrupts::Split => [Some(apic), None],
        Interrupts::Pc => [Some(apic), Some(ioapic)],
    }
    .into_iter()
    .flatten()
}

/// Returns the entry of `owner` at `address`. If it does not end at or below `limit`, adds a problem instead.
pub(super) fn bounded(
    owner: RangeOwner,
    address: Gpa,
    size: u64,
    limit: u64,
    problems: &mut Vec<LayoutProblem>,
) -> Option<LayoutEntry> {
    match GpaRange::new(address, size).filter(|range| range.end().0 <= limit) {
        Some(range) => Some(LayoutEntry { owner, range }),
        None => {
            problems.push(LayoutProblem::TooHigh { owner, address, size, limit });
            None
        }
    }
}
