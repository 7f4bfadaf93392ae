//! `bench start`: from spawn to exit, when the guest costs nothing.
//!
//! The guest prints one byte and halts. The floor makes the same machine with the same calls, in C. QEMU, if it is here, gets
//! a BIOS of five instructions in place of its own: its shortest way to a guest's first instruction.

use std::fs;
use std::path::Path;

use super::Bench;
use super::program::Run;
use super::race::{Candidate, Rules, Times, race};
use super::row::{Goal, Row};
use crate::failure::{Result, While};
use crate::progress::say;

const PART: &str = "start";
const CLI: &str = "vmm-cli";
const GLIBC: &str = "C, static glibc";
const BARE: &str = "C, no libc";
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let programs = &bench.programs;
    let runs = [
        (GLIBC, Run::new(programs.floor("start"), [""; 0])),
        (BARE, Run::new(programs.floor("start-bare"), [""; 0])),
        (CLI, Run::new(&programs.cli, ["run".to_owned(), bench.config("bench-hello")])),
    ];
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let times = race(candidates, bench.rules(Rules::SHORT))?;
    let mut rows = Vec::new();
    for (name, run) in &runs {
        let (calls, peak) = programs.probe(run)?;
        rows.push(Row {
            calls: Some(calls),
            peak_kib: Some(peak),
            ..Row::of(PART, "run", name, &times, 1.0)?
        });
    }
    if let Some(row) = rows.iter_mut().find(|row| row.name == CLI) {
        row.goals = goals(&times)?;
    }
    rows.extend(peers(bench)?);
    Ok(rows)
}

fn goals(times: &Times) -> Result<Vec<Goal>> {
    let glibc = Goal::ratio("start: vmm-cli to C with static glibc", times.ratio(CLI, GLIBC)?, 0.90);
    let bare = Goal::ratio("start: vmm-cli to C without libc", times.ratio(CLI, BARE)?, 1.20);
    Ok(vec![glibc, bare])
}

/// QEMU's smallest machine, in a race of its own: it is so much slower that few rounds do.
fn peers(bench: &Bench) -> Result<Vec<Row>> {
    let qemus = qemus(bench)?;
    if qemus.is_empty() {
        return Ok(Vec::new());
    }
    let floor = (GLIBC, Run::new(bench.programs.floor("start"), [""; 0]));
    let runs: Vec<_> = [floor].into_iter().chain(qemus).collect();
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let times = race(candidates, bench.rules(Rules { sure: 0.02, ..Rules::LONG }))?;
    runs.iter().skip(1).map(|(name, _)| Row::of(PART, "run", name, &times, 1.0)).collect()
}

/// A start of it with each accelerator, by name; none where it is not installed.
pub(super) fn qemus(bench: &Bench) -> Result<Vec<(&'static str, Run)>> {
    if !Path::new(QEMU).exists() {
        say(format_args!("no QEMU to compare with: it is in Debian's package qemu-system-x86"));
        return Ok(Vec::new());
    }
    Ok(vec![("QEMU microvm, kvm", qemu(bench, "kvm")?), ("QEMU microvm, tcg", qemu(bench, "tcg")?)])
}

fn qemu(bench: &Bench, accelerator: &str) -> Result<Run> {
    let bios = bench.programs.scratch().join("bios.bin");
    fs::write(&bios, self::bios()).while_doing("write", &bios)?;
    let machine = format!("microvm,accel={accelerator}");
    let bios = bios.display().to_string();
    let fixed = ["-nodefaults", "-no-user-config", "-display", "none", "-m", "2", "-device"];
    let exit = "isa-debug-exit,iobase=0xf4,iosize=1".to_owned();
    let arguments = ["-M".to_owned(), machine, "-bios".to_owned(), bios];
    let arguments = arguments.into_iter().chain(fixed.map(str::to_owned)).chain([exit]);
    // isa-debug-exit ends with twice the value and one.
    Ok(Run::new(QEMU, arguments).ending_with(1))
}

/// 64 KiB that end at 4 GiB, where a processor after reset finds its first instruction, 16 bytes below the end.
fn bios() -> Vec<u8> {
    let code = [
        0xb0, b'!', // mov al, '!'
        0xe6, 0xe9, // out 0xe9, al: nobody listens
        0xb0, 0x00, // mov al, 0
        0xe6, 0xf4, // out 0xf4, al: the end
        0xf4, // hlt
    ];
    let mut bytes = vec![0x90; 64 << 10];
    let at = bytes.len() - 16;
    for (byte, value) in bytes.iter_mut().skip(at).zip(code) {
        *byte = value;
    }
    bytes
}
