//! Memory map of the machine for a kernel: E820, Multiboot, PVH.
//!
//! On a machine without firmware tables all memory is usable. With them the map is that of a PC: 639 KiB, the extended BIOS data
//! area, the window of graphics adapters (not listed), the BIOS area, and the rest from 1 MiB on.

use vmm_loader::{MemoryMapEntry, MemoryMapKind};

use crate::Gpa;
use crate::devices::rtc::MemorySizes;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;

/// Address of the extended BIOS data area: the last KiB below the graphics window.
pub const EBDA: Gpa = Gpa(0x9_fc00);
/// First address of the graphics window.
const GRAPHICS: Gpa = Gpa(0xa_0000);
/// First address of the BIOS area.
pub const BIOS_AREA: Gpa = Gpa(0xe_0000);
/// End of the BIOS area: 1 MiB.
pub const ONE_MIB: Gpa = Gpa(0x10_0000);

/// Returns the memory map of a machine for a kernel, sorted by address, without overlaps. Adjacent ranges of one kind are one
/// entry.
#[must_use]
pub fn memory_map(spec: &MachineSpec) -> Vec<MemoryMapEntry> {
    let firmware = if spec.devices.platform.has_tables() { firmware_ranges() } else { Vec::new() };
    let window = [GpaRange::between(GRAPHICS, BIOS_AREA)];
    let window = window.into_iter().flatten().filter(|_| !firmware.is_empty());
    let mut taken: Vec<GpaRange> = firmware.iter().copied().chain(window).collect();
    taken.sort();

    let mut map: Vec<MemoryMapEntry> =
        firmware.iter().map(|&range| entry(range, MemoryMapKind::Reserved)).collect();
    for region in &spec.memory {
        let kind = if region.read_only { MemoryMapKind::Reserved } else { MemoryMapKind::Usable };
        let Some(range) = GpaRange::new(region.address, region.size) else { continue };
        map.extend(range.without(&taken).into_iter().map(|range| entry(range, kind)));
    }
    map.sort_by_key(|entry| entry.start);
    join(&map)
}

fn entry(range: GpaRange, kind: MemoryMapKind) -> MemoryMapEntry {
    MemoryMapEntry::new(range.start().into(), range.size(), kind)
}

/// Returns the memory sizes that firmware leaves in CMOS memory.
#[must_use]
pub fn memory_sizes(spec: &MachineSpec) -> MemorySizes {
    let map = memory_map(spec);
    let usable = || {
        let entries = map.iter().filter(|entry| entry.kind == MemoryMapKind::Usable);
        entries.filter_map(|entry| GpaRange::new(entry.start.into(), entry.size))
    };
    let four_gib = Gpa(1 << 32);
    let low = usable().find(|range| range.start() <= ONE_MIB && ONE_MIB < range.end());
    let high = usable().filter_map(|range| range.intersection(GpaRange::between(four_gib, Gpa(u64::MAX))?));
    MemorySizes {
        above_1m: low.map_or(0, |range| range.end().min(four_gib).0 - ONE_MIB.0),
        above_4g: high.fold(0, |sum, range| sum + range.size()),
    }
}

/// Returns the ranges that firmware reserves.
fn firmware_ranges() -> Vec<GpaRange> {
    [GpaRange::between(EBDA, GRAPHICS), GpaRange::between(BIOS_AREA, ONE_MIB)].into_iter().flatten().collect()
}

/// Joins adjacent entries of one kind.
fn join(map: &[MemoryMapEntry]) -> Vec<MemoryMapEntry> {
    let mut joined: Vec<MemoryMapEntry> = Vec::new();
    for entry in map {
        match joined.last_mut().filter(|last| last.kind == entry.kind && last.end() == entry.start) {
            Some(last) => last.size = last.size.saturating_add(entry.size),
            None => joined.push(*entry),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::spec::mode::Mode;
    use crate::spec::{EntryPoint, MemoryRegion, PlatformSpec};

    fn machine(regions: &[(u64, u64)], platform: PlatformSpec) -> MachineSpec {
        let mut spec = MachineSpec::new(Mode::Long, 0, EntryPoint::Address(Gva(0)));
        spec.memory = regions.iter().map(|&(at, size)| MemoryRegion::new(Gpa(at), size)).collect();
        spec.devices.platform = platform;
        spec
    }

    fn shown(spec: &MachineSpec) -> Vec<String> {
        let shown = |entry: &MemoryMapEntry| {
            let (start, end) = (Gpa::from(entry.start), Gpa::from(entry.end()));
            format!("{start}..{end} {:?}", entry.kind)
        };
        memory_map(spec).iter().map(shown).collect()
    }

    #[test]
    fn a_pc_has_its_holes() {
        let spec = machine(&[(0, 0xc000_0000), (1 << 32, 1 << 30)], PlatformSpec::pc());
        let expected = [
            "0x0..0x9fc00 Usable",
            "0x9fc00..0xa0000 Reserved",
            "0xe0000..0x100000 Reserved",
            "0x100000..0xc0000000 Usable",
            "0x100000000..0x140000000 Usable",
        ];
        assert_eq!(shown(&spec), expected);
        assert_eq!(memory_sizes(&spec), MemorySizes { above_1m: 0xbff0_0000, above_4g: 1 << 30 });
    }

    #[test]
    fn without_tables_all_memory_is_the_guests() {
        let mut spec = machine(&[(0x20_0000, 0x1000), (0, 0x20_0000)], PlatformSpec::default());
        assert_eq!(shown(&spec), ["0x0..0x201000 Usable"]);
        spec.memory[0].read_only = true;
        assert_eq!(shown(&spec), ["0x0..0x200000 Usable", "0x200000..0x201000 Reserved"]);
    }

    #[test]
    fn regions_may_lie_across_the_holes() {
        let spec = machine(&[(0, 0x9_0000), (0x9_0000, 0x20_0000)], PlatformSpec::pc());
        let expected = [
            "0x0..0x9fc00 Usable",
            "0x9fc00..0xa0000 Reserved",
            "0xe0000..0x100000 Reserved",
            "0x100000..0x290000 Usable",
        ];
        assert_eq!(shown(&spec), expected);
    }
}
