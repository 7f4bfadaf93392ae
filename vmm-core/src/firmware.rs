//! What a PC's firmware leaves in memory: tables that tell a kernel what machine it is on.
//!
//! There is no firmware here, only what it would have written: pure functions from a machine's description to bytes at
//! fixed places. [`crate::layout`] keeps these places free, and the bytes are put into memory like every table of ours.
//!
//! | file | what |
//! |---|---|
//! | `memory_map.rs` | which memory a kernel may use; not a table, but told by every boot protocol |
//! | `bios_data.rs` | the few variables of the BIOS that kernels still read |
//! | `acpi/` | the ACPI tables |
//! | `mp_table.rs` | the MP table |

mod acpi;
mod bios_data;
pub mod memory_map;
mod mp_table;

pub use memory_map::{MapEntry, MapKind, memory_map, memory_sizes};

use crate::Gpa;
use crate::PAGE_SIZE;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;
use crate::spec::table_image::TableImage;
use memory_map::{BIOS_AREA, EBDA};

/// Where the ACPI root pointer (RSDP) lies, on machines with ACPI tables. Kernels that are told nothing look for it from
/// 0xe0000 to 0xfffff (ACPI 6.5, 5.2.5.1).
pub const RSDP: Gpa = BIOS_AREA;
/// Where a guest that sleeps (S3) leaves word where to go on: the waking vector of the FACS (5.2.10), the first of the tables.
pub const WAKING_VECTOR: Gpa = Gpa(RSDP.0 + acpi::FACS + 12);
/// Where the MP table's floating pointer lies: in the BIOS segment, where kernels look for it.
pub const MP_POINTER: Gpa = Gpa(0xf_0000);

/// The registers of each CPU's local APIC.
const LOCAL_APIC: u32 = 0xfee0_0000;
/// The registers of the IOAPIC.
const IOAPIC: u32 = 0xfec0_0000;
/// Its ID, which KVM's IOAPIC has after a reset.
const IOAPIC_ID: u8 = 0;
/// ACPI's own interrupt.
const SCI: u16 = 9;

/// What firmware keeps of memory, named, sorted by address: nothing on a machine without tables.
#[must_use]
pub fn ranges(spec: &MachineSpec) -> Vec<(&'static str, GpaRange)> {
    let images = images(spec);
    let end = |start: Gpa| {
        let image = images.iter().find(|image| image.gpa == start);
        image.and_then(|image| start.checked_add(image.bytes.len() as u64))
    };
    // Whole pages. Should there be too many CPUs for the half of the BIOS area that the ACPI tables have, they overlap.
    let page_end = |start| end(start).and_then(|end| end.0.checked_next_multiple_of(PAGE_SIZE)).map(Gpa);
    let areas = [
        (bios_data::NAME, bios_data::ADDRESS, end(bios_data::ADDRESS)),
        (bios_data::EXTENDED_NAME, EBDA, end(EBDA)),
        (ACPI, RSDP, page_end(RSDP)),
        (MP, MP_POINTER, page_end(MP_POINTER)),
    ];
    areas.into_iter().filter_map(|(name, start, end)| Some((name, GpaRange::between(start, end?)?))).collect()
}

const ACPI: &str = "ACPI tables";
const MP: &str = "MP table";

/// The tables, for guest memory, sorted by address: nothing on a machine without tables.
#[must_use]
pub fn images(spec: &MachineSpec) -> Vec<TableImage> {
    let platform = &spec.devices.platform;
    let mut images = Vec::new();
    if platform.has_tables() {
        images.push(TableImage {
            gpa: bios_data::ADDRESS,
            name: bios_data::NAME,
            bytes: bios_data::image(spec),
        });
        images.push(TableImage { gpa: EBDA, name: bios_data::EXTENDED_NAME, bytes: bios_data::extended() });
    }
    // Both lie below 1 MiB.
    let address = |gpa: Gpa| u32::try_from(gpa.0).unwrap_or(0);
    if platform.acpi {
        images.push(TableImage { gpa: RSDP, name: ACPI, bytes: acpi::image(spec, address(RSDP)) });
    }
    if platform.mp_table {
        images.push(TableImage {
            gpa: MP_POINTER,
            name: MP,
            bytes: mp_table::image(spec, address(MP_POINTER)),
        });
    }
    images
}

/// The byte that makes the sum of all bytes 0; 0 if it is already.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Makes the sum of all bytes 0, by the one at `offset`, which is 0 so far.
fn set_checksum(bytes: &mut [u8], offset: usize) {
    let value = checksum(bytes);
    if let Some(byte) = bytes.get_mut(offset) {
        *byte = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::spec::mode::Mode;
    use crate::spec::{EntryPoint, Interrupts, PlatformSpec};

    fn machine(vcpus: u32, platform: PlatformSpec) -> MachineSpec {
        let mut spec = MachineSpec::new(Mode::Long, 256 << 20, EntryPoint::Address(Gva(0)));
        (spec.vcpus, spec.interrupts, spec.devices.platform) = (vcpus, Interrupts::Pc, platform);
        spec
    }

    #[test]
    fn every_image_lies_in_its_range() {
        for (vcpus, acpi, mp) in [(1, 1, 1), (2, 1, 1), (255, 3, 2), (1024, 12, 2)] {
            let spec = machine(vcpus, PlatformSpec::pc());
            let ranges = ranges(&spec);
            let shown: Vec<_> = ranges.iter().map(|(name, range)| format!("{name} {range}")).collect();
            let expected = [
                "BIOS data 0x400..0x500".to_owned(),
                "extended BIOS data 0x9fc00..0xa0000".to_owned(),
                format!("ACPI tables 0xe0000..{:#x}", 0xe0000 + acpi * PAGE_SIZE),
                format!("MP table 0xf0000..{:#x}", 0xf0000 + mp * PAGE_SIZE),
            ];
            assert_eq!(shown, expected, "{vcpus} vCPUs");
            for (image, (name, range)) in images(&spec).iter().zip(&ranges) {
                assert_eq!(image.name, *name);
                assert!(range.contains(GpaRange::new(image.gpa, image.bytes.len() as u64).unwrap()));
            }
        }
    }

    #[test]
    fn a_machine_without_tables_has_nothing() {
        let spec = machine(1, PlatformSpec { acpi: false, mp_table: false, ..PlatformSpec::pc() });
        assert_eq!((images(&spec), ranges(&spec)), (vec![], vec![]));
    }
}
