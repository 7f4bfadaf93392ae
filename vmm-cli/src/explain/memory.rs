//! Guest-physical address space with slots, owners, holes and devices; and the I/O ports.

use serde::{Serialize, Serializer};
use vmm_core::Port;
use vmm_core::devices::{self, DeviceKind, DeviceSource, InstalledDevice};
use vmm_core::layout::{Layout, LayoutPart, LayoutRegion, LayoutRow, LayoutRowKind, RangeOwner};
use vmm_core::spec::gpa_range::{ByteSize, GpaRange};
use vmm_core::spec::{BusAddress, MachineSpec};

use super::hex;

/// Slots, memory map and ports.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    /// The memory slots, by number.
    pub(super) slots: Vec<Slot>,
    /// The address space from 0 up to the last thing in it, without gaps.
    pub(super) map: Vec<MapRow>,
    /// The devices on the port bus, by port.
    pub(super) ports: Vec<Ports>,
}

/// A memory slot.
#[derive(Debug, Serialize)]
pub(super) struct Slot {
    pub(super) number: usize,
    #[serde(serialize_with = "as_hex")]
    pub(super) start: u64,
    #[serde(serialize_with = "as_hex")]
    pub(super) end: u64,
    pub(super) size: u64,
    pub(super) read_only: bool,
    pub(super) huge_pages: bool,
    pub(super) mergeable: bool,
    /// Backing on the host.
    pub(super) backing: &'static str,
}

impl Slot {
    /// Returns the properties that differ from the default, each after a comma.
    pub(super) fn words(&self) -> String {
        let flags =
            [(self.read_only, "read-only"), (self.huge_pages, "huge pages"), (self.mergeable, "mergeable")];
        let flags = flags.into_iter().filter_map(|(yes, word)| yes.then_some(word));
        let backing = (self.backing != "anonymous").then_some(self.backing);
        backing.into_iter().chain(flags).map(|word| format!(", {word}")).collect()
    }
}

/// Range with one owner.
#[derive(Debug, Serialize)]
pub(super) struct MapRow {
    #[serde(serialize_with = "as_hex")]
    pub(super) start: u64,
    #[serde(serialize_with = "as_hex")]
    pub(super) end: u64,
    pub(super) size: u64,
    /// The slot it lies in; none in a hole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) slot: Option<usize>,
    /// Kind of the owner.
    pub(super) kind: Kind,
    /// Name of the owner.
    pub(super) what: String,
}

/// Kind of the owner of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Unused memory.
    Free,
    /// No memory: an access exits as MMIO.
    Hole,
    /// From the guest's files.
    Guest,
    /// GDT, IDT, TSS.
    Table,
    /// Page tables.
    PageTables,
    /// The guest's stack.
    Stack,
    /// Ring 3: the trap page and its stack.
    Landing,
    /// KVM's own pages.
    Kvm,
    /// A device's registers.
    Device,
}

/// A device on the port bus.
#[derive(Debug, Serialize)]
pub(super) struct Ports {
    pub(super) first: String,
    pub(super) last: String,
    pub(super) device: String,
    pub(super) does: String,
}

impl Memory {
    pub(super) fn of(spec: &MachineSpec, layout: &Layout) -> Self {
        let slots = spec.memory.iter().enumerate().map(|(number, region)| Slot {
            number,
            start: region.address.0,
            end: region.address.0.saturating_add(region.size),
            size: region.size,
            read_only: region.read_only,
            huge_pages: region.huge_pages,
            mergeable: region.mergeable,
            backing: region.backing.name(),
        });
        let map = layout.rows().into_iter().map(|row| map_row(layout, &row)).collect();
        Self { slots: slots.collect(), map, ports: ports(spec) }
    }
}

/// Formats a number of bytes: exactly if that is short, else to a tenth of a unit.
pub(super) fn size_words(bytes: u64) -> String {
    let exact = ByteSize(bytes).to_string();
    let digits = exact.chars().filter(char::is_ascii_digit).count();
    let units = [(1u64 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, name)) if digits > 4 => {
            let tenths = u128::from(bytes).saturating_mul(10) / u128::from(size);
            format!("~{}.{} {name}", tenths / 10, tenths % 10)
        }
        Some(_) | None => exact,
    }
}

fn as_hex<S: Serializer>(address: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&hex(*address))
}

fn map_row(layout: &Layout, LayoutRow { range, kind: row, owner }: &LayoutRow<'_>) -> MapRow {
    let (kind, what) = match owner {
        Some(owner) => (kind(owner), owner.to_string()),
        None => match row {
            LayoutRowKind::Memory | LayoutRowKind::ReadOnly => (Kind::Free, "free".to_owned()),
            LayoutRowKind::Hole => (Kind::Hole, "hole".to_owned()),
        },
    };
    MapRow {
        start: range.start().0,
        end: range.end().0,
        size: range.size(),
        slot: slot_of(layout.memory(), *range),
        kind,
        what,
    }
}

fn kind(owner: &RangeOwner) -> Kind {
    match owner {
        RangeOwner::Memory(_) => Kind::Free,
        RangeOwner::TssPages | RangeOwner::IdentityMap => Kind::Kvm,
        RangeOwner::Device(_) => Kind::Device,
        RangeOwner::Guest(_) => Kind::Guest,
        RangeOwner::Firmware(_) => Kind::Table,
        RangeOwner::Part(part) => match part {
            LayoutPart::Gdt | LayoutPart::Idt | LayoutPart::Tss => Kind::Table,
            LayoutPart::TrapPage | LayoutPart::KernelStack => Kind::Landing,
            LayoutPart::PageTables => Kind::PageTables,
            LayoutPart::Stack => Kind::Stack,
        },
    }
}

/// Returns the slot of a range. Regions are counted from 1, slots from 0.
fn slot_of(regions: &[LayoutRegion], range: GpaRange) -> Option<usize> {
    regions.iter().find(|region| region.range.contains(range)).map(|region| region.number.saturating_sub(1))
}

fn ports(spec: &MachineSpec) -> Vec<Ports> {
    let devices = devices::installed(&spec.devices);
    let mut ports: Vec<(u16, Ports)> = devices.iter().filter_map(|device| port_range(spec, device)).collect();
    ports.sort_by_key(|(port, _)| *port);
    ports.into_iter().map(|(_, ports)| ports).collect()
}

/// Returns the first port and the row of a device; `None` if it is not at ports.
fn port_range(spec: &MachineSpec, device: &InstalledDevice<'_>) -> Option<(u16, Ports)> {
    let BusAddress::Port(Port(first)) = device.at else { return None };
    let collects = spec.devices.debug_console.is_some_and(|console| console.collect);
    let note = match device.source {
        DeviceSource::BuiltIn(DeviceKind::DebugConsole) if collects => "; the kernel collects them",
        DeviceSource::BuiltIn(_) | DeviceSource::Virtio(_) | DeviceSource::Custom(_) => "",
    };
    let (device_name, does) = (device.name.to_owned(), format!("{}{note}", device.purpose));
    Some((first, Ports { first: hex(first), last: hex(device.last()), device: device_name, does }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_size_is_rounded_and_says_so() {
        let sizes = [
            (51, "51 B"),
            (4096, "4 KiB"),
            (978_929, "~955.9 KiB"),
            (0xffdb_c000, "~3.9 GiB"),
            (1 << 50, "1024 TiB"),
        ];
        for (bytes, words) in sizes {
            assert_eq!(size_words(bytes), words);
        }
    }
}
