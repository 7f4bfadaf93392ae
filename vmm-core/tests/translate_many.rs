//! The page walker against `KVM_TRANSLATE`: ten thousand addresses in each mode, through tables of rubbish.
//!
//! `on_kvm.rs` compares the two on tables that we built. Here the tables are what a guest gone wild may leave behind:
//! random entries that lead to each other, to pages, to where no memory is, with random and reserved bits. Both have to
//! give the same address, or both none.
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
/// Where the tables lie, one page each.
const TABLES: u64 = 0x10_0000;
const TABLE_COUNT: u64 = 24;
const ADDRESSES: u32 = 10_000;
/// New tables after so many addresses.
const ROUND: u32 = 500;

/// SplitMix64: numbers that look random and are the same in every run.
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

    /// True once in `times`.
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

/// An entry of a table: mostly one that leads on.
fn entry(random: &mut Random, scheme: Scheme, pae_root: bool) -> u64 {
    let table = TABLES + random.below(TABLE_COUNT) * 4096;
    let target = match random.below(10) {
        0..=6 => table,
        7 => random.below(MEMORY) & !0xfff,
        8 => random.next() & 0xffff_f000,
        _ => random.next() & 0x000f_ffff_ffff_f000,
    };
    if pae_root {
        // A bad one of these four is found when CR3 is loaded, not when it is used: see `Walker`.
        return if random.one_in(5) { 0 } else { table | 1 };
    }
    let present = u64::from(!random.one_in(12));
    // R/W, U/S, PWT, PCD, A, D and G anyhow; PS now and then; the ignored bits 9 to 11 too.
    let mut flags = random.next() & 0xf7e & !0x80 | present;
    if random.one_in(6) {
        flags |= 0x80;
    }
    if scheme == Scheme::TwoLevel {
        return (target | flags) & 0xffff_ffff;
    }
    // The high bits are left alone mostly: with many set, every walk would end at once.
    let high = match random.below(12) {
        0 => 1 << 63,
        1 => random.next() & 0x7ff0_0000_0000_0000,
        _ => 0,
    };
    target | flags | high
}

/// Writes new tables and points CR3 at the first.
fn scribble(random: &mut Random, machine: &Machine) {
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

/// An address that the mode has.
fn address(random: &mut Random, mode: Mode) -> Gva {
    let any = random.next();
    Gva(match mode {
        Mode::Long => ((any << 16).cast_signed() >> 16).cast_unsigned(),
        Mode::Real | Mode::Protected | Mode::Paged | Mode::Pae => any & 0xffff_ffff,
    })
}

fn agree(mode: Mode) {
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
        scribble(&mut random, &machine);
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
        // Every way to end was seen often enough to count.
        assert!(mapped > 500 && absent > 500 && nowhere > 100, "the tables are too tame");
        assert!(refused > 100, "the tables are too tame");
    }
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_in_real_mode() {
    agree(Mode::Real);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_in_protected_mode() {
    agree(Mode::Protected);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_with_two_levels() {
    agree(Mode::Paged);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_with_pae() {
    agree(Mode::Pae);
}

#[test]
#[ignore = "needs /dev/kvm"]
fn ten_thousand_addresses_in_long_mode() {
    agree(Mode::Long);
}
