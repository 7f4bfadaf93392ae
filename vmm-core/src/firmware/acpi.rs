//! ACPI tables (Advanced Configuration and Power Interface, 6.5): they describe CPUs, interrupt controllers, devices and power
//! management to a kernel.
//!
//! | file | table |
//! |---|---|
//! | `acpi.rs` | RSDP, RSDT, XSDT: addresses of the other tables; FACS |
//! | `fixed.rs` | FADT: the fixed hardware; MADT: CPUs and interrupt controllers |
//! | `dsdt.rs` | DSDT: devices and sleep states, as AML |
//!
//! All tables are in one range from [`RSDP`](super::RSDP) on. The acpi_tables crate writes them, except for the RSDT (for
//! kernels that do not support the XSDT), the RSDP's pointer to it, and a few entries of the MADT.

mod dsdt;
mod fixed;
#[cfg(test)]
mod tests;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::set_checksum;
use crate::spec::MachineSpec;

const OEM: [u8; 6] = *b"VMM   ";
const OEM_TABLE: [u8; 8] = *b"VMM     ";
const OEM_REVISION: u32 = 1;
/// Length of the header that all tables but RSDP and FACS have (5.2.6).
const HEADER: u32 = 36;
/// Room for the RSDP in front of the tables.
const RSDP_ROOM: usize = 64;
/// Offset of the FACS, the first of them.
pub(super) const FACS: u64 = RSDP_ROOM as u64;
/// Each table begins at a multiple of this; the FACS has to (5.2.10).
const ALIGNMENT: usize = 64;

/// All tables, for address `start`, which is a multiple of 64 below 4 GiB.
pub(super) fn image(spec: &MachineSpec, start: u32) -> Vec<u8> {
    let mut area = Area { bytes: vec![0; RSDP_ROOM], start };
    let facs = area.place(&bytes(&FACS::new()));
    let dsdt = area.place(&dsdt::dsdt(spec));
    let mut tables = vec![area.place(&fixed::fadt(spec, facs, dsdt))];
    tables.extend(fixed::madt(spec).map(|madt| area.place(&madt)));

    let mut rsdt = Sdt::new(*b"RSDT", HEADER, 1, OEM, OEM_TABLE, OEM_REVISION);
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in tables {
        rsdt.append_slice(&table.to_le_bytes());
        xsdt.add_entry(table.into());
    }
    let rsdt = area.place(rsdt.as_slice());
    let xsdt = area.place(&bytes(&xsdt));
    let rsdp = rsdp(rsdt, xsdt);
    for (to, from) in area.bytes.iter_mut().zip(rsdp) {
        *to = from;
    }
    area.bytes
}

/// Tables, one behind the other.
struct Area {
    bytes: Vec<u8>,
    start: u32,
}

impl Area {
    /// Appends a table and returns its address.
    fn place(&mut self, table: &[u8]) -> u32 {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
        let offset = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(table);
        self.start.saturating_add(offset)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The root pointer, revision 2 (5.2.5.3). Its first checksum is for the 20 bytes that revision 0 had.
fn rsdp(rsdt: u32, xsdt: u32) -> Vec<u8> {
    let mut rsdp = b"RSD PTR \0".to_vec();
    rsdp.extend(OEM);
    rsdp.push(2);
    rsdp.extend(rsdt.to_le_bytes());
    set_checksum(&mut rsdp, 8);
    rsdp.extend(HEADER.to_le_bytes());
    rsdp.extend(u64::from(xsdt).to_le_bytes());
    rsdp.extend([0; 4]);
    set_checksum(&mut rsdp, 32);
    rsdp
}
