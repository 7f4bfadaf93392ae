//! The bus side of the layout: memory regions, KVM's own pages, devices that answer to addresses.
//!
//! The kernel itself only checks that memory slots do not overlap each other. So memory is held against KVM's pages
//! and devices here, before there is a VM.

use super::{LayoutEntry, LayoutProblem, LayoutRegion, RangeOwner};
use crate::Gpa;
use crate::PAGE_SIZE;
use crate::devices::{length, pc};
use crate::spec::gpa_range::GpaRange;
use crate::spec::{DeviceAddress, DeviceSpecs, Interrupts, MachineSpec, virtio};

/// Where KVM keeps its identity map unless told otherwise (api.rst, KVM_SET_IDENTITY_MAP_ADDR).
const IDENTITY_MAP: Gpa = Gpa(0xfffb_c000);
/// A physical address has at most 52 bits.
const PHYSICAL_END: u64 = 1 << 52;

/// What answers to physical addresses.
pub(super) struct BusKind {
    /// Memory, sorted by address.
    pub(super) memory: Vec<LayoutRegion>,
    /// What must not be memory: KVM's pages and devices.
    pub(super) outside: Vec<LayoutEntry>,
}

impl BusKind {
    /// Memory, KVM's pages and devices, as far as they make sense.
    pub(super) fn new(spec: &MachineSpec, problems: &mut Vec<LayoutProblem>) -> Self {
        Self { memory: memory(spec, problems), outside: outside(spec, problems) }
    }

    /// What a mapping can show: memory and devices, sorted by address.
    pub(super) fn mappable(&self) -> Vec<GpaRange> {
        let devices = self.outside.iter().filter(|placed| matches!(placed.owner, RangeOwner::Device(_)));
        let mut spans: Vec<GpaRange> = self.memory.iter().map(|region| region.range).collect();
        spans.extend(devices.map(|placed| placed.range));
        spans.sort();
        spans
    }

    /// Memory regions as ranges with a name.
    pub(super) fn regions(&self) -> impl Iterator<Item = LayoutEntry> {
        self.memory
            .iter()
            .map(|region| LayoutEntry { range: region.range, owner: RangeOwner::Memory(region.number) })
    }
}

/// The memory regions that can be one, sorted.
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

/// KVM's own pages and the devices that answer to addresses.
fn outside(spec: &MachineSpec, problems: &mut Vec<LayoutProblem>) -> Vec<LayoutEntry> {
    let mut outside = Vec::new();
    let address = spec.tss_address;
    if !address.is_aligned(PAGE_SIZE) {
        problems.push(LayoutProblem::TssAddressMisaligned(address));
    }
    match GpaRange::new(address, 3 * PAGE_SIZE) {
        Some(range) if range.end().0 <= 1 << 32 => {
            outside.push(LayoutEntry { range, owner: RangeOwner::TssPages })
        }
        Some(_) | None => problems.push(LayoutProblem::TssAddressTooHigh(address)),
    }
    outside.extend(
        GpaRange::new(IDENTITY_MAP, PAGE_SIZE)
            .map(|range| LayoutEntry { range, owner: RangeOwner::IdentityMap }),
    );
    let own = mmio(&spec.devices).chain(board(&spec.devices)).chain(virtio(&spec.devices));
    for (name, at, size) in own.chain(controllers(spec.interrupts)) {
        outside.extend(bounded(RangeOwner::Device(name), at, size, PHYSICAL_END, problems));
    }
    outside
}

/// Name, address and size of each device that answers to addresses. Ports are a bus of their own.
fn mmio(devices: &DeviceSpecs) -> impl Iterator<Item = (&'static str, Gpa, u64)> {
    [
        ("debug-console", devices.debug_console.map(|console| console.at), length::DEBUG_CONSOLE),
        ("serial", devices.serial.map(|serial| serial.at), length::SERIAL),
        ("debug-exit", devices.debug_exit.as_ref().map(|exit| exit.at), length::DEBUG_EXIT),
        ("hypercall", devices.hypercall, length::HYPERCALL),
    ]
    .into_iter()
    .filter_map(|(name, at, size)| match at? {
        DeviceAddress::Mmio(gpa) => Some((name, gpa, size)),
        DeviceAddress::Port(_) => None,
    })
}

/// Those of a PC's board that answer to addresses.
fn board(devices: &DeviceSpecs) -> impl Iterator<Item = (&'static str, Gpa, u64)> {
    pc::parts(&devices.platform).into_iter().filter_map(|part| match part.at() {
        DeviceAddress::Mmio(gpa) => Some((part.name(), gpa, part.length())),
        DeviceAddress::Port(_) => None,
    })
}

/// Virtio devices: each in its window.
fn virtio(devices: &DeviceSpecs) -> impl Iterator<Item = (&'static str, Gpa, u64)> {
    let windows = devices.virtio.iter().enumerate();
    windows.filter_map(|(index, device)| {
        let window = virtio::window(index)?;
        Some((device.device_name(), window.start(), window.size()))
    })
}

/// The interrupt controllers that answer to addresses, inside the kernel (SDM vol. 3, 10.4.1; 82093AA, 3.0).
fn controllers(interrupts: Interrupts) -> impl Iterator<Item = (&'static str, Gpa, u64)> {
    let apic = ("local-apic", Gpa(0xfee0_0000), PAGE_SIZE);
    let ioapic = ("ioapic", Gpa(0xfec0_0000), PAGE_SIZE);
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
