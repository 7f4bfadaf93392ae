//! Compares the page walker with `KVM_TRANSLATE` for ten thousand addresses in each mode, with random page tables.
//!
//! `on_kvm.rs` compares both on tables of the builder. Here the entries are random: they point to other tables, to pages and to
//! addresses without memory, with random and reserved bits. Both must return the same address, or none.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "the helpers of tests are tests"
)]

use std::io;

use vm_memory::{Bytes, GuestAddress};
use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::machine::image::FlatImage;
use vmm_core::paging::Scheme;
use vmm_core::paging::walk::{WalkEnd, Walker};
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec, Mapping, PagePermissions};
use vmm_core::{Gpa, Gva, Kvm};

const MEMORY: u64 = 16 << 20;
const CODE: u64 = 0x8000;
/// Address of the first table. Each takes one page.
const TABLES: u64 = 0x10_0000;
const TABLE_COUNT: u64 = 24;
const ADDRESSES: u32 = 10_000;
/// Number of addresses after which new tables are written.
const ROUND: u32 = 500;

/// SplitMix64: pseudo-random numbers, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Returns true with probability 1 / `times`.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

fn machine(mode: Mode, execute_disable: bool) -> Result<Machine, Error> {
    let mut spec = MachineSpec::new(mode, MEMORY, EntryPoint::Address(Gva(CODE)));
    if execute_disable {
        // A mapping that forbids execution switches EFER.NXE on.
        let access = PagePermissions { writable: true, user: false, executable: false };
        let map = Mapping { gva: Gva(0x4000_0000), gpa: Gpa(0), size: 4096, access };
        spec.boot.paging.maps.push(map);
    }
    let guest = FlatImage { address: Gpa(CODE), bytes: &[0xf4] };
    Machine::build(&Kvm::open().unwrap(), spec, &guest, Console::with_output(io::sink()))
}

/// Returns a random entry. Most entries point to another table.
fn entry(random: &mut Random, scheme: Scheme, pae_root: bool) -> u64 {
    let table = TABLES + random.below(TABLE_COUNT) * 4096;
    let target = match random.below(10) {
        0..=6 => table,
        7 => random.below(MEMORY) & !0xfff,
        8 => random.next() & 0xffff_f000,
        _ => random.next() & 0x000f_ffff_ffff_f000,
    };
    if pae_root {
        // Invalid entries among these four are detected when CR3 is loaded, not when they are used: see `Walker`.
        return if random.one_in(5) { 0 } else { table | 1 };
    }
    let present = u64::from(!random.one_in(12));
    // R/W, U/S, PWT, PCD, A, D, G and the ignored bits 9 to 11 are random. PS is set in one of six entries.
    let mut flags = random.next() & 0xf7e & !0x80 | present;
    if random.one_in(6) {
        flags |= 0x80;
    }
    if scheme == Scheme::TwoLevel {
        return (target | flags) & 0xffff_ffff;
    }
    // High bits are seldom set: with many of them, every walk would end at its first entry.
    let high = match random.below(12) {
        0 => 1 << 63,
        1 => random.next() & 0x7ff0_0000_0000_0000,
        _ => 0,
    };
    target | flags | high
}

/// Writes random tables and sets CR3 to the first.
fn write_tables(random: &mut Random, machine: &Machine) {
    let mut sregs = machine.vcpu().sregs().unwrap();
    let Some(scheme) = Scheme::from_sregs(&sregs) else { return };
    for page in 0..TABLE_COUNT {
        let mut bytes = Vec::with_capacity(4096);
        for index in 0..4096 / scheme.entry_bytes() {
            let pae_root = scheme == Scheme::Pae && page == 0 && index < 4;
            let value = entry(random, scheme, pae_root).to_le_bytes();
            bytes.extend_from_slice(&value[..usize::try_from(scheme.entry_bytes()).unwrap()]);
        }
        machine.memory().write_slice(&bytes, GuestAddress(TABLES + page * 4096)).unwrap();
    }
    sregs.cr3 = TABLES;
    machine.vcpu().set_sregs(&sregs).unwrap();
}

/// Returns a random address of the mode.
fn address(random: &mut Random, mode: Mode) -> Gva {
    let any = random.next();
    Gva(if mode.is_long() { ((any << 16).cast_signed() >> 16).cast_unsigned() } else { any & 0xffff_ffff })
}

fn compare(mode: Mode) {
    let mut random = Random(0x5eed ^ mode as u64);
    let (mut mapped, mut refused, mut absent, mut nowhere) = (0, 0, 0, 0);
    for round in 0..ADDRESSES / ROUND {
        let machine = match machine(mode, mode.has_paging() && mode != Mode::Paged && round % 2 == 0) {
            Ok(machine) => machine,
            Err(error) if error.blame() == Blame::HostLacks => {
                println!("skipped: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        write_tables(&mut random, &machine);
        let walker: Walker = machine.walker().unwrap();
        for _ in 0..ROUND {
            let gva = address(&mut random, mode);
            let walk = walker.walk(machine.memory(), gva);
            let kvm = machine.vcpu().translate(gva).unwrap();
            assert_eq!(walk.translation().map(|to| to.gpa), kvm, "mode {mode}, round {round}:\n{walk}");
            match walk.end {
                WalkEnd::Mapped(_) => mapped += 1,
                WalkEnd::NotPresent => absent += 1,
                WalkEnd::Reserved(_) => refused += 1,
                WalkEnd::NoMemory(_) => nowhere += 1,
                WalkEnd::Unaddressable => panic!("{gva}"),
            }
        }
    }
    println!(
        "{mode}: {mapped} mapped, {absent} not present, {refused} reserved bits, {nowhere} tables nowhere"
    );
    assert_eq!(mapped + absent + refused + nowhere, ADDRESSES);
    if mode.has_paging() {
        // Each kind of result occurred often enough.
        assert!(mapped > 500 && absent > 500 && nowhere > 100, "too few walks of one kind");
        assert!(refused > 100, "too few walks of one kind");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_in_real_mode() {
    compare(Mode::Real);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_in_protected_mode() {
    compare(Mode::Protected);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_with_two_levels() {
    compare(Mode::Paged);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_with_pae() {
    compare(Mode::Pae);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_in_long_mode() {
    compare(Mode::Long);
}
