//! What machines cost a program that makes many of them: new ones, ones that go back to a snapshot, and clones of one.
//!
//! `cargo xtask bench reset clone many` runs this and judges the numbers. By itself:
//! `cargo run --release --example machines reset 100 50` (what to do, pages that the guest writes, rounds). Each line of
//! output is a JSON object: what was measured, and the seconds, or KiB, of each round.
#![forbid(unsafe_code)]

use std::error::Error;
use std::time::Instant;

use vmm_core::devices::console::Console;
use vmm_core::machine::Machine;
use vmm_core::machine::image::FlatImage;
use vmm_core::snapshot::Snapshot;
use vmm_core::spec::mode::Mode;
use vmm_core::spec::{EntryPoint, MachineSpec, Register};
use vmm_core::{Gpa, Gva, Kvm};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const CODE: u64 = 0x8000;
/// The pages that the guest writes begin here.
const PAGES: u64 = 0x10_0000;

/// Writes a byte to each of RDI pages from RSI on, and halts.
/// `test %rdi, %rdi; jz 2f; 1: movb $1, (%rsi); add $0x1000, %rsi; dec %rdi; jnz 1b; 2: hlt`
const GUEST: [u8; 21] = [
    0x48, 0x85, 0xff, 0x74, 0x0f, 0xc6, 0x06, 0x01, 0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, 0x48, 0xff,
    0xcf, 0x75, 0xf1, 0xf4,
];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().ok_or("what: reset, clone or many")?;
    let pages = arguments.next().ok_or("how many pages the guest writes")?.parse()?;
    let rounds = arguments.next().ok_or("how many rounds")?.parse()?;
    let kvm = Kvm::open()?;
    match what.as_str() {
        "reset" => reset(&kvm, pages, rounds),
        "clone" => clone(&kvm, pages, rounds),
        "many" => many(&kvm, pages, rounds),
        _ => Err("what: reset, clone or many".into()),
    }
}

/// A machine of 16 MiB, or as much as the pages need, before its first instruction.
fn build(kvm: &Kvm, pages: u64) -> Result<Machine> {
    let size = (PAGES + pages * 4096).next_multiple_of(16 << 20);
    let mut spec = MachineSpec::new(Mode::Long, size, EntryPoint::Address(Gva(CODE)));
    spec.boot.registers = vec![(Register::Rdi, pages), (Register::Rsi, PAGES)];
    Ok(Machine::build(kvm, spec, &FlatImage { address: Gpa(CODE), bytes: &GUEST }, silent())?)
}

fn silent() -> Console {
    Console::with_output(std::io::sink())
}

/// Seconds that something takes, and what came of it.
fn timed<T>(what: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let started = Instant::now();
    let result = what()?;
    Ok((started.elapsed().as_secs_f64(), result))
}

/// A machine that has written its pages goes back; next to it, a new one is made.
fn reset(kvm: &Kvm, pages: u64, rounds: usize) -> Result<()> {
    let mut machine = build(kvm, pages)?.fork(silent())?;
    let (mut new, mut back, mut again) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (seconds, other) = timed(|| build(kvm, pages))?;
        drop(other);
        new.push(seconds);
        // Making the other has driven this one's pages out of the caches.
        machine.run()?;
        machine.reset()?;
        machine.run()?;
        back.push(timed(|| Ok(machine.reset()?))?.0);
        again.push(timed(|| Ok((machine.run()?, machine.reset()?)))?.0);
    }
    print("new machine", &new);
    print("reset", &back);
    print("run and reset", &again);
    Ok(())
}

/// A machine that has written its pages is cloned; next to it, an empty one is made.
fn clone(kvm: &Kvm, pages: u64, rounds: usize) -> Result<()> {
    let mut booted = build(kvm, pages)?;
    booted.run()?;
    let snapshot = booted.snapshot()?;
    let (mut new, mut cloned, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (seconds, other) = timed(|| build(kvm, pages))?;
        drop(other);
        new.push(seconds);
        let (seconds, other) = timed(|| Ok(snapshot.machine(kvm, silent())?))?;
        drop(other);
        cloned.push(seconds);
        taken.push(timed(|| Ok(booted.snapshot()?))?.0);
    }
    print("new machine", &new);
    print("clone of a snapshot", &cloned);
    print("snapshot", &taken);
    Ok(())
}

/// So many machines at once, and one after the other.
fn many(kvm: &Kvm, pages: u64, count: usize) -> Result<()> {
    let (mut new, mut cloned) = (Vec::new(), Vec::new());
    let snapshot: Snapshot = build(kvm, pages)?.snapshot()?;
    for _ in 0..count {
        new.push(timed(|| Ok(build(kvm, pages)?.run()?))?.0);
        cloned.push(timed(|| Ok(snapshot.machine(kvm, silent())?.run()?))?.0);
    }
    let before = (resident()?, private()?, slab()?);
    let mut alive = Vec::new();
    for _ in 0..count {
        let mut machine = snapshot.machine(kvm, silent())?;
        machine.run()?;
        alive.push(machine);
    }
    let each = |after: f64, before: f64| {
        (after - before) / f64::from(u32::try_from(alive.len()).unwrap_or(u32::MAX))
    };
    let own = each(private()?, before.1);
    let (resident, slab) = (each(resident()?, before.0), each(slab()?, before.2));
    print("new, run, dropped", &new);
    print("cloned, run, dropped", &cloned);
    print("resident", &[resident]);
    print("private", &[own]);
    print("slab", &[slab]);
    Ok(())
}

/// KiB of memory that this process has.
fn resident() -> Result<f64> {
    line("/proc/self/status", "VmRSS:")
}

/// KiB of it that are its own: the others show pages of the snapshot, which are there once.
fn private() -> Result<f64> {
    line("/proc/self/smaps_rollup", "Private_Dirty:")
}

/// KiB of memory that the kernel has for its own structures.
fn slab() -> Result<f64> {
    line("/proc/meminfo", "Slab:")
}

fn line(file: &str, key: &str) -> Result<f64> {
    let text = std::fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("{file} has no {key}").into())
}

fn print(name: &str, values: &[f64]) {
    println!("{{\"name\": {name:?}, \"values\": {values:?}}}");
}
