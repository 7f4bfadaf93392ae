//! The tables, read back as a kernel reads them. (They were also disassembled with Intel's iasl.)

use std::collections::BTreeMap;

use super::*;
use crate::Gva;
use crate::firmware::{WAKING_VECTOR, checksum};
use crate::spec::mode::Mode;
use crate::spec::{EntryPoint, Interrupts, PlatformSpec, VirtioSpec};

const START: u32 = 0xe_0000;

fn machine(vcpus: u32, interrupts: Interrupts) -> MachineSpec {
    let mut spec = MachineSpec::new(Mode::Long, 256 << 20, EntryPoint::Address(Gva(0)));
    (spec.vcpus, spec.interrupts, spec.devices.platform) = (vcpus, interrupts, PlatformSpec::pc());
    spec
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// A table at an address, with its length and checksum found right.
fn table(image: &[u8], address: u64) -> Vec<u8> {
    let at = usize::try_from(address).unwrap() - START as usize;
    let table = &image[at..][..u32_at(image, at + 4) as usize];
    assert_eq!(checksum(table), 0, "{:?}", &table[..4]);
    table.to_vec()
}

/// All tables by signature, found on both ways, and the FACS.
fn read(image: &[u8]) -> BTreeMap<String, Vec<u8>> {
    assert_eq!(&image[..8], b"RSD PTR ");
    assert_eq!((checksum(&image[..20]), checksum(&image[..36])), (0, 0));
    assert_eq!((image[15], u32_at(image, 20)), (2, 36));
    let rsdt = table(image, u32_at(image, 16).into());
    let xsdt = table(image, u64_at(image, 24));
    assert_eq!((&rsdt[..4], &xsdt[..4]), (&b"RSDT"[..], &b"XSDT"[..]));
    let short: Vec<u64> = rsdt[36..].chunks(4).map(|entry| u32_at(entry, 0).into()).collect();
    let long: Vec<u64> = xsdt[36..].chunks(8).map(|entry| u64_at(entry, 0)).collect();
    assert_eq!(short, long);
    let mut tables: Vec<Vec<u8>> = long.iter().map(|address| table(image, *address)).collect();
    let fadt = tables[0].clone();
    assert_eq!(u64::from(u32_at(&fadt, 40)), u64_at(&fadt, 140), "DSDT and X_DSDT");
    tables.push(table(image, u32_at(&fadt, 40).into()));
    let facs = u32_at(&fadt, 36);
    assert!(facs.is_multiple_of(64));
    assert_eq!(u64::from(facs) + 12, WAKING_VECTOR.0);
    let facs = &image[(facs - START) as usize..][..64];
    assert_eq!((&facs[..4], u32_at(facs, 4)), (&b"FACS"[..], 64));
    tables.into_iter().map(|table| (String::from_utf8(table[..4].to_vec()).unwrap(), table)).collect()
}

/// Type and bytes of each entry of the MADT.
fn madt_entries(tables: &BTreeMap<String, Vec<u8>>) -> Vec<Vec<u8>> {
    let mut rest = &tables["APIC"][44..];
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (entry, others) = rest.split_at(rest[1].into());
        entries.push(entry.to_vec());
        rest = others;
    }
    entries
}

#[test]
fn all_tables_are_found_and_whole() {
    let tables = read(&image(&machine(2, Interrupts::Pc), START));
    assert_eq!(tables.keys().collect::<Vec<_>>(), ["APIC", "DSDT", "FACP"]);
    let fadt = &tables["FACP"];
    assert_eq!((fadt[8], fadt.len()), (6, 276));
    assert_eq!(u16::from_le_bytes([fadt[46], fadt[47]]), 9, "SCI");
    assert_eq!((u32_at(fadt, 56), u32_at(fadt, 64), u32_at(fadt, 76)), (0x600, 0x604, 0x608));
    assert_eq!(fadt[88..92], [4, 2, 0, 4]);
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b111, "legacy devices, 8042, no VGA");
    assert_eq!(u32_at(fadt, 112), 1 << 0 | 1 << 2 | 0b11 << 4 | 1 << 8 | 1 << 10);
    assert_eq!((fadt[116], u64_at(fadt, 120), fadt[128]), (1, 0xcf9, 6), "the way to reset");
}

#[test]
fn the_madt_lists_cpus_and_inputs() {
    let spec = machine(2, Interrupts::Pc);
    let tables = read(&image(&spec, START));
    assert_eq!((u32_at(&tables["APIC"], 36), u32_at(&tables["APIC"], 40)), (0xfee0_0000, 1));
    let expected: [&[u8]; 5] = [
        &[0, 8, 0, 0, 1, 0, 0, 0],
        &[0, 8, 1, 1, 1, 0, 0, 0],
        &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
        &[2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0],
        &[4, 6, 0xff, 0, 0, 1],
    ];
    assert_eq!(madt_entries(&tables), expected);
}

#[test]
fn without_an_ioapic_and_without_any_controller() {
    let tables = read(&image(&machine(1, Interrupts::Split), START));
    assert_eq!(u32_at(&tables["APIC"], 40), 0);
    assert_eq!(madt_entries(&tables).iter().map(|entry| entry[0]).collect::<Vec<_>>(), [0, 4]);
    assert!(!read(&image(&machine(1, Interrupts::None), START)).contains_key("APIC"));
}

#[test]
fn more_cpus_than_a_byte_has_numbers() {
    let tables = read(&image(&machine(300, Interrupts::Pc), START));
    let entries = madt_entries(&tables);
    assert_eq!(entries.iter().filter(|entry| entry[0] == 0).count(), 255);
    assert_eq!(entries.iter().filter(|entry| entry[0] == 9).count(), 45);
    assert_eq!(entries[255], [9, 16, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 255, 0, 0, 0]);
}

#[test]
fn the_dsdt_names_what_is_there() {
    let mut spec = machine(2, Interrupts::Pc);
    spec.devices.virtio = vec![VirtioSpec::Entropy, VirtioSpec::Entropy];
    let dsdt = read(&image(&spec, START)).remove("DSDT").unwrap();
    let has = |what: &[u8]| dsdt.windows(what.len()).any(|window| window == what);
    for name in
        ["C000", "C001", "COM1", "RTC_", "FWCF", "VR00", "VR01", "LNRO0005", "ACPI0007", "_S3_", "_S5_"]
    {
        assert!(has(name.as_bytes()), "{name}");
    }
    assert!(!has(b"C002") && !has(b"VR02"));
    // Memory32Fixed of the second window; then an interrupt: consumer, edge, high, not shared, number 10.
    assert!(has(&[0x86, 9, 0, 1, 0, 0x10, 0, 0xd0, 0, 2, 0, 0, 0x89, 6, 0, 0b011, 1, 10, 0, 0, 0]));
    spec.devices.serial = None;
    spec.interrupts = Interrupts::Split;
    let dsdt = read(&image(&spec, START)).remove("DSDT").unwrap();
    assert!(!dsdt.windows(4).any(|window| window == b"COM1"));
    assert!(!dsdt.windows(3).any(|window| window == [0x89, 6, 0]), "no interrupts");
}

#[test]
fn what_the_machine_does_not_have_is_not_promised() {
    let mut spec = machine(1, Interrupts::Pc);
    spec.devices.platform = PlatformSpec { acpi: true, ..PlatformSpec::default() };
    let tables = read(&image(&spec, START));
    let fadt = &tables["FACP"];
    assert_eq!((u32_at(fadt, 56), u32_at(fadt, 76), fadt[128]), (0, 0, 0));
    assert_eq!(u32_at(fadt, 112) & (1 << 20 | 1 << 10), 1 << 20, "reduced hardware, no reset register");
    assert_eq!(u16::from_le_bytes([fadt[109], fadt[110]]), 0b10_0101);
    let dsdt = &tables["DSDT"];
    assert!(!dsdt.windows(4).any(|window| [b"_S3_", b"_S5_", b"RTC_"].iter().any(|name| window == *name)));
}
