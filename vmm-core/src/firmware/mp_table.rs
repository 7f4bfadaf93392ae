//! MP table (Intel MultiProcessor Specification 1.4): CPUs and interrupt inputs, for kernels older than ACPI.
//!
//! A floating pointer of 16 bytes, for which kernels search the BIOS segment from 0xf0000 on, followed by the configuration
//! table: a header, then entries, sorted by type.

use super::{IOAPIC, IOAPIC_ID, LOCAL_APIC, SCI, set_checksum};
use crate::spec::{Interrupts, MachineSpec};

/// Version 1.4.
const REVISION: u8 = 4;
const POINTER: u32 = 16;
const HEADER: usize = 44;
/// Version of the local APICs (SDM vol. 3, 11.4.8) and of KVM's IOAPIC.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IOAPIC_VERSION: u8 = 0x11;
/// CPU flags: enabled; bootstrap processor.
const ENABLED: u8 = 1 << 0;
const BOOTSTRAP: u8 = 1 << 1;
/// CPU signature and feature flags: a Pentium Pro with FPU and APIC.
const SIGNATURE: u32 = 0x600;
const FEATURES: u32 = 0x201;
/// Bus ID of the ISA bus.
const ISA: u8 = 0;
/// Kinds of interrupts (4.3.4, table 4-11).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;
/// Flags of an interrupt: conforming to the bus; active high and level-triggered.
const CONFORMS_TO_BUS: u16 = 0;
const HIGH_LEVEL: u16 = 0x0d;
/// All local APICs.
const ALL_APICS: u8 = 0xff;
/// Maximum number of CPUs: IDs have a byte, and 255 means all.
const MAX_CPUS: u32 = 255;

/// Returns pointer and table for the address `start`, a multiple of 16.
pub(super) fn image(spec: &MachineSpec, start: u32) -> Vec<u8> {
    let table = table(&entries(spec));
    let mut image = b"_MP_".to_vec();
    image.extend(start.saturating_add(POINTER).to_le_bytes());
    // Length in units of 16 bytes, version, checksum, and features: a table is there, and interrupts go through the PICs
    // until a kernel says otherwise ("virtual wire", 3.6.2.2).
    image.extend([1, REVISION, 0, 0, 0, 0, 0, 0]);
    set_checksum(&mut image, 10);
    image.extend(table);
    image
}

/// Returns the entries. Each begins with its type.
fn entries(spec: &MachineSpec) -> Vec<Vec<u8>> {
    let cpus = (0..spec.vcpus.min(MAX_CPUS)).filter_map(|id| u8::try_from(id).ok());
    let mut entries: Vec<Vec<u8>> = cpus.map(processor).collect();
    entries.push([&[1, ISA][..], b"ISA   "].concat());
    match spec.interrupts {
        Interrupts::None | Interrupts::Split => {}
        Interrupts::Pc => {
            entries.push([&[2, IOAPIC_ID, IOAPIC_VERSION, ENABLED][..], &IOAPIC.to_le_bytes()].concat());
            // KVM routes each interrupt to the IOAPIC input of the same number. That includes the timer, which is at
            // input 2 on most boards. Line 2 is the second PIC's.
            for irq in (0..16u8).filter(|irq| *irq != 2) {
                let flags = if u16::from(irq) == SCI { HIGH_LEVEL } else { CONFORMS_TO_BUS };
                entries.push(interrupt(3, INT, flags, irq, IOAPIC_ID, irq));
            }
            // The PICs are connected to input 0 of the bootstrap processor.
            entries.push(interrupt(4, EXT_INT, CONFORMS_TO_BUS, 0, 0, 0));
        }
    }
    entries.push(interrupt(4, NMI, CONFORMS_TO_BUS, 0, ALL_APICS, 1));
    entries
}

fn processor(id: u8) -> Vec<u8> {
    let flags = if id == 0 { ENABLED | BOOTSTRAP } else { ENABLED };
    let mut entry = vec![0, id, LOCAL_APIC_VERSION, flags];
    entry.extend(SIGNATURE.to_le_bytes());
    entry.extend(FEATURES.to_le_bytes());
    entry.extend([0; 8]);
    entry
}

/// Returns an interrupt assignment: to an input of an IOAPIC (type 3) or of local APICs (type 4).
fn interrupt(entry_type: u8, kind: u8, flags: u16, irq: u8, apic: u8, input: u8) -> Vec<u8> {
    let [low, high] = flags.to_le_bytes();
    vec![entry_type, kind, low, high, ISA, irq, apic, input]
}

/// Returns the configuration table (4.2).
fn table(entries: &[Vec<u8>]) -> Vec<u8> {
    let number = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let length = HEADER + entries.iter().map(Vec::len).sum::<usize>();
    let mut table = b"PCMP".to_vec();
    table.extend(number(length));
    table.extend([REVISION, 0]);
    table.extend(b"VMM     ");
    table.extend(b"VMM         ");
    // No OEM table.
    table.extend([0; 6]);
    table.extend(number(entries.len()));
    table.extend(LOCAL_APIC.to_le_bytes());
    // No extended entries.
    table.extend([0; 4]);
    table.extend(entries.iter().flatten());
    set_checksum(&mut table, 7);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gva;
    use crate::firmware::checksum;
    use crate::spec::EntryPoint;
    use crate::spec::mode::Mode;

    fn machine(vcpus: u32, interrupts: Interrupts) -> MachineSpec {
        let spec = MachineSpec::new(Mode::Protected, 2 << 20, EntryPoint::Address(Gva(0)));
        MachineSpec { vcpus, interrupts, ..spec }
    }

    /// What a kernel reads: the entries' types and bytes. Each step is one that xv6 takes.
    fn parse(image: &[u8], start: u32) -> Vec<(u8, Vec<u8>)> {
        assert_eq!(&image[..4], b"_MP_");
        assert_eq!(checksum(&image[..16]), 0);
        let at = u32::from_le_bytes(image[4..8].try_into().unwrap()) - start;
        let table = &image[at as usize..];
        assert_eq!(&table[..4], b"PCMP");
        let length = usize::from(u16::from_le_bytes([table[4], table[5]]));
        assert_eq!(table.len(), length);
        assert_eq!(checksum(table), 0);
        let count = usize::from(u16::from_le_bytes([table[34], table[35]]));
        let mut entries = Vec::new();
        let mut rest = &table[44..];
        while let Some(&kind) = rest.first() {
            let (entry, others) = rest.split_at(if kind == 0 { 20 } else { 8 });
            entries.push((kind, entry.to_vec()));
            rest = others;
        }
        assert_eq!(entries.len(), count);
        assert!(entries.is_sorted_by_key(|(kind, _)| *kind));
        entries
    }

    #[test]
    fn a_pc_with_two_cpus() {
        let entries = parse(&image(&machine(2, Interrupts::Pc), 0xf_0000), 0xf_0000);
        let of = |kind| entries.iter().filter(move |entry| entry.0 == kind).map(|entry| entry.1.clone());
        let cpus: Vec<_> = of(0).map(|entry| (entry[1], entry[3])).collect();
        assert_eq!(cpus, [(0, 3), (1, 1)]);
        assert_eq!(of(1).collect::<Vec<_>>(), [b"\x01\x00ISA   "]);
        assert_eq!(of(2).collect::<Vec<_>>(), [[2, 0, 0x11, 1, 0, 0, 0xc0, 0xfe]]);
        let inputs: Vec<_> = of(3).map(|entry| (entry[5], entry[7], entry[2])).collect();
        assert_eq!(inputs.len(), 15);
        assert_eq!((inputs[0], inputs[1], inputs[8]), ((0, 0, 0), (1, 1, 0), (9, 9, 0xd)));
        assert_eq!(
            of(4).map(|entry| (entry[1], entry[6], entry[7])).collect::<Vec<_>>(),
            [(3, 0, 0), (1, 0xff, 1)]
        );
    }

    #[test]
    fn without_an_ioapic_there_are_only_cpus() {
        let entries = parse(&image(&machine(1000, Interrupts::Split), 0xf_0000), 0xf_0000);
        assert_eq!(entries.iter().filter(|entry| entry.0 == 0).count(), 255);
        assert_eq!(entries.iter().map(|entry| entry.0).max(), Some(4));
        assert!(!entries.iter().any(|entry| matches!(entry.0, 2 | 3)));
    }
}
