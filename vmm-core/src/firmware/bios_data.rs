//! BIOS data area (0x400), as far as kernels read it, and the extended BIOS data area.
//!
//! Kernels search for tables in the extended area first, or in the last KiB of the memory size in the BIOS data area. With zeros
//! in these words some of them read invalid addresses (<https://wiki.osdev.org/Memory_Map_(x86)>).

use super::memory_map::EBDA;
use crate::Gpa;
use crate::spec::{BusAddress, MachineSpec};

/// Name of the BIOS data area in tables and messages.
pub(super) const NAME: &str = "BIOS data";
/// Name of the extended area in tables and messages.
pub(super) const EXTENDED_NAME: &str = "extended BIOS data";
/// Address of the BIOS data area.
pub(super) const ADDRESS: Gpa = Gpa(0x400);

const LENGTH: usize = 0x100;
/// Offset of the port of the first serial port.
const SERIAL: usize = 0x00;
/// Offset of the extended area's segment.
const EXTENDED: usize = 0x0e;
/// Offset of the size of memory below the extended area, in KiB.
const MEMORY: usize = 0x13;

/// Returns the BIOS data area.
pub(super) fn image(spec: &MachineSpec) -> Vec<u8> {
    let serial = match spec.devices.serial.map(|serial| serial.at) {
        Some(BusAddress::Port(port)) => port.0,
        Some(BusAddress::Mmio(_)) | None => 0,
    };
    let small = |value: u64| u16::try_from(value).unwrap_or(0);
    let words = [(SERIAL, serial), (EXTENDED, small(EBDA.0 >> 4)), (MEMORY, small(EBDA.0 >> 10))];
    let mut area = vec![0; LENGTH];
    for (offset, word) in words {
        for (to, from) in area.iter_mut().skip(offset).zip(word.to_le_bytes()) {
            *to = from;
        }
    }
    area
}

/// Returns the extended area. Its first byte is its length in KiB.
pub(super) fn extended() -> Vec<u8> {
    let mut area = vec![0; 1024];
    if let Some(length) = area.first_mut() {
        *length = 1;
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::spec::EntryPoint;
    use crate::spec::mode::Mode;

    #[test]
    fn the_words_are_at_their_places() {
        let area = image(&MachineSpec::new(Mode::Real, 1 << 20, EntryPoint::Address(Gva(0))));
        let word = |address: usize| u16::from_le_bytes([area[address - 0x400], area[address - 0x3ff]]);
        assert_eq!((word(0x400), word(0x402)), (0x3f8, 0));
        assert_eq!((word(0x40e), word(0x413)), (0x9fc0, 639));
        assert_eq!(extended().len(), 1024);
    }
}
