//! `bench start`: time from spawn to exit.
//!
//! The guest prints one byte and halts. The baseline creates the same machine with the same system calls in C. QEMU, if it is
//! installed, runs a BIOS of five instructions, which is its shortest path to the first instruction of a guest.

use std::fs;
use std::path::Path;

use super::Bench;
use super::interleave::{Candidate, StopRules, Timings, interleave};
use super::program::TimedCommand;
use super::table::{BenchRow, Goal};
use crate::failure::{FileContext, Result};
use crate::progress::say;

const PART: &str = "start";
const CLI: &str = "vmm-cli";
const UNCONFINED: &str = "vmm-cli --sandbox=off";
const GLIBC: &str = "C, static glibc";
const BARE: &str = "C, no libc";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

pub(super) fn run(bench: &Bench) -> Result<Vec<BenchRow>> {
    let programs = &bench.programs;
    let run = |options: &[&str]| {
        let words = ["run".to_owned(), bench.config("bench-hello")].into_iter();
        TimedCommand::new(&programs.cli, words.chain(options.iter().map(|word| (*word).to_owned())))
    };
    let runs = [
        (GLIBC, TimedCommand::new(programs.baseline("start"), [""; 0])),
        (BARE, TimedCommand::new(programs.baseline("start-bare"), [""; 0])),
        (CLI, run(&[])),
        (UNCONFINED, run(&["--sandbox=off"])),
    ];
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let times = interleave(candidates, bench.rules(StopRules::SHORT))?;
    let mut rows = Vec::new();
    for (name, run) in &runs {
        let (calls, peak) = programs.probe(run)?;
        rows.push(BenchRow {
            calls: Some(calls),
            peak_kib: Some(peak),
            ..BenchRow::new(PART, "run", name, &times, 1.0)?
        });
    }
    if let Some(row) = rows.iter_mut().find(|row| row.name == CLI) {
        row.goals = goals(&times)?;
    }
    rows.extend(peers(bench)?);
    Ok(rows)
}

fn goals(times: &Timings) -> Result<Vec<Goal>> {
    let glibc = Goal::ratio("start: vmm-cli to C with static glibc", times.ratio(CLI, GLIBC)?, 0.90);
    let bare = Goal::ratio("start: vmm-cli to C without libc", times.ratio(CLI, BARE)?, 1.20);
    let confinement = Goal {
        what: "start: confinement".to_owned(),
        measured: times.difference(CLI, UNCONFINED)?.median * 1e6,
        limit: 60.0,
        unit: "us".to_owned(),
    };
    Ok(vec![glibc, bare, confinement])
}

/// Measures QEMU's smallest machine separately: it is much slower, so few rounds are enough.
fn peers(bench: &Bench) -> Result<Vec<BenchRow>> {
    let qemus = qemus(bench)?;
    if qemus.is_empty() {
        return Ok(Vec::new());
    }
    let baseline = (GLIBC, TimedCommand::new(bench.programs.baseline("start"), [""; 0]));
    let runs: Vec<_> = [baseline].into_iter().chain(qemus).collect();
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let times = interleave(candidates, bench.rules(StopRules { max_uncertainty: 0.02, ..StopRules::LONG }))?;
    runs.iter().skip(1).map(|(name, _)| BenchRow::new(PART, "run", name, &times, 1.0)).collect()
}

/// Returns a command for each accelerator of QEMU, by name; empty if QEMU is not installed.
pub(super) fn qemus(bench: &Bench) -> Result<Vec<(&'static str, TimedCommand)>> {
    if !Path::new(QEMU).exists() {
        say(format_args!("no QEMU to compare with: it is in Debian's package qemu-system-x86"));
        return Ok(Vec::new());
    }
    Ok(vec![("QEMU microvm, kvm", qemu(bench, "kvm")?), ("QEMU microvm, tcg", qemu(bench, "tcg")?)])
}

fn qemu(bench: &Bench, accelerator: &str) -> Result<TimedCommand> {
    let bios = bench.programs.scratch().join("bios.bin");
    fs::write(&bios, self::bios()).while_doing("write", &bios)?;
    let machine = format!("microvm,accel={accelerator}");
    let bios = bios.display().to_string();
    let fixed = ["-nodefaults", "-no-user-config", "-display", "none", "-m", "2", "-device"];
    let exit = "isa-debug-exit,iobase=0xf4,iosize=1".to_owned();
    let arguments = ["-M".to_owned(), machine, "-bios".to_owned(), bios];
    let arguments = arguments.into_iter().chain(fixed.map(str::to_owned)).chain([exit]);
    // isa-debug-exit: the exit status is 2 * value + 1.
    Ok(TimedCommand::new(QEMU, arguments).with_status(1))
}

/// Returns a 64 KiB BIOS. It is mapped up to 4 GiB, and the reset vector is 16 bytes below its end.
fn bios() -> Vec<u8> {
    let code = [
        0xb0, b'!', // mov al, '!'
        0xe6, 0xe9, // out 0xe9, al: no device
        0xb0, 0x00, // mov al, 0
        0xe6, 0xf4, // out 0xf4, al: exit
        0xf4, // hlt
    ];
    let mut bytes = vec![0x90; 64 << 10];
    let at = bytes.len() - 16;
    for (byte, value) in bytes.iter_mut().skip(at).zip(code) {
        *byte = value;
    }
    bytes
}
