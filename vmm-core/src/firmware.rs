//! Tables of a PC's firmware: they describe the machine to a kernel.
//!
//! No firmware runs. Pure functions turn a machine's description into bytes at fixed addresses; [`crate::layout`] keeps these
//! addresses free, and [`Machine::build`](crate::machine::Machine::build) writes the bytes.
//!
//! | file | table |
//! |---|---|
//! | `memory_map.rs` | memory map for boot protocols (E820); not a table in memory |
//! | `bios_data.rs` | BIOS data area, as far as kernels read it |
//! | `acpi/` | the ACPI tables |
//! | `mp_table.rs` | the MP table |

mod acpi;
mod bios_data;
pub mod memory_map;
mod mp_table;

pub use memory_map::{memory_map, memory_sizes};
pub use vmm_loader::{MemoryMapEntry, MemoryMapKind};

use crate::Gpa;
use crate::PAGE_SIZE;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;
use crate::spec::table_image::TableImage;
use memory_map::{BIOS_AREA, EBDA};

/// Address of the ACPI root pointer (RSDP), on machines with ACPI tables. Kernels search for it from 0xe0000 to 0xfffff
/// (ACPI 6.5, 5.2.5.1).
pub const RSDP: Gpa = BIOS_AREA;
/// Address of the waking vector of the FACS (5.2.10), where a guest stores its start address before it suspends (S3).
pub const WAKING_VECTOR: Gpa = Gpa(RSDP.0 + acpi::FACS + 12);
/// Address of the MP floating pointer, in the BIOS segment, which kernels search.
pub const MP_POINTER: Gpa = Gpa(0xf_0000);

/// Address of the local APIC registers.
const LOCAL_APIC: u32 = 0xfee0_0000;
/// Address of the IOAPIC registers.
const IOAPIC: u32 = 0xfec0_0000;
/// ID of KVM's IOAPIC after a reset.
const IOAPIC_ID: u8 = 0;
/// Interrupt line of ACPI (SCI).
const SCI: u16 = 9;

/// Returns the ranges that firmware reserves, with names, sorted by address; none on a machine without tables.
#[must_use]
pub fn ranges(spec: &MachineSpec) -> Vec<(&'static str, GpaRange)> {
    let images = images(spec);
    let end = |start: Gpa| {
        let image = images.iter().find(|image| image.gpa == start);
        image.and_then(|image| start.checked_add(image.bytes.len() as u64))
    };
    // Whole pages. With too many CPUs for the half of the BIOS area that the ACPI tables have, the ranges overlap.
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

/// Returns the tables for guest memory, sorted by address; none on a machine without tables.
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

/// Returns the byte that makes the sum of all bytes 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// Sets the byte at `offset`, which is 0, so that the sum of all bytes is 0.
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
