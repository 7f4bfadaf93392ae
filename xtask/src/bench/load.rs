//! `bench load`: a guest's file becomes its memory, and the guest then reads none of it, a tenth, or all.
//!
//! The files are made here: the code of guests/bench-touch, and one large segment of data. The floor loads them with read(),
//! and by mapping them. All is in the page cache, since the first round of a race does not count.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Bench;
use super::program::Run;
use super::race::{Candidate, Rules, race};
use super::row::{Goal, Row};
use crate::failure::{Result, While};

const CLI: &str = "vmm-cli";
const READ: &str = "C, read()";
const MAP: &str = "C, mmap()";

/// Where the code lies, and where the data begins: as xtask/bench/load.c expects it, in their order.
const CODE: u64 = 0x10_0000;
const DATA: u64 = 0x100_0000;
const PAGE: u64 = 4096;
/// MiB.
const LARGEST: u64 = 1024;

pub(super) fn run(bench: &Bench) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let sizes: &[u64] = if bench.quick { &[1] } else { &[1, 64, LARGEST] };
    for &mib in sizes {
        let (elf, config) = files(bench, mib)?;
        for percent in [0, 10, 100] {
            rows.extend(one(bench, Job { mib, percent, ring: 0 }, &elf, &config)?);
        }
        if mib == LARGEST {
            // A host may map memory in another way for code that it runs natively.
            rows.extend(one(bench, Job { mib, percent: 100, ring: 3 }, &elf, &config)?);
        }
        fs::remove_file(&elf).while_doing("remove", &elf)?;
    }
    Ok(rows)
}

/// A file of this size, of which a guest in this ring reads so much.
#[derive(Clone, Copy)]
struct Job {
    mib: u64,
    percent: u64,
    ring: u8,
}

fn one(bench: &Bench, job: Job, elf: &Path, config: &Path) -> Result<Vec<Row>> {
    let Job { mib, percent, ring } = job;
    let part = format!("load: {mib} MiB, {percent} % touched, ring {ring}");
    let pages = mib * (1 << 20) / PAGE * percent / 100;
    let floor = |how: &str| {
        let arguments = [elf.display().to_string(), how.to_owned(), pages.to_string(), ring.to_string()];
        Run::new(bench.programs.floor("load"), arguments)
    };
    let set = [format!("registers.rdi={pages}"), format!("ring={ring}")];
    let set = set.into_iter().flat_map(|assignment| ["--set".to_owned(), assignment]);
    let arguments = ["run".to_owned(), config.display().to_string()].into_iter().chain(set);
    let runs = [(READ, floor("read")), (MAP, floor("map")), (CLI, Run::new(&bench.programs.cli, arguments))];
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let rules = if mib < LARGEST {
        Rules { sure: 0.01, ..Rules::SHORT }
    } else {
        Rules { least: 5, sure: 0.02, ..Rules::LONG }
    };
    let race = race(candidates, bench.rules(rules))?;
    let mut rows = Vec::new();
    for (name, run) in &runs {
        let (calls, peak) = bench.programs.probe(run)?;
        let row = Row::of(&part, "run", name, &race, 1.0)?;
        rows.push(Row { calls: Some(calls), peak_kib: Some(peak), ..row });
    }
    if let (LARGEST, Some(row)) = (mib, rows.last_mut()) {
        row.goals.extend(goal(job, row));
    }
    Ok(rows)
}

/// What is asked of the largest file.
fn goal(job: Job, row: &Row) -> Option<Goal> {
    match job.percent {
        0 => Some(Goal {
            what: "load: 1 GiB untouched, vmm-cli from spawn to exit".to_owned(),
            measured: row.time.median / 1e3,
            limit: 2.0,
            unit: "ms".to_owned(),
        }),
        100 => {
            let what = format!("load: 1 GiB all touched, ring {}, vmm-cli to C with read()", job.ring);
            Some(Goal::ratio(what, row.ratio, 1.0))
        }
        _ => None,
    }
}

/// Writes a guest with so much data, and its configuration.
fn files(bench: &Bench, mib: u64) -> Result<(PathBuf, PathBuf)> {
    let code_path = bench.workspace.path("guests/build/bench-touch.bin");
    let code = fs::read(&code_path).while_doing("read", &code_path)?;
    let elf = bench.programs.scratch().join(format!("load-{mib}.elf"));
    write_elf(&elf, &code, mib << 20).while_doing("write", &elf)?;
    let config = elf.with_extension("toml");
    let text = format!(
        "# {mib} MiB of data, made by `cargo xtask bench load`.\nmode = \"long\"\nmemory.size = \"{}MiB\"\n\
         guest.elf = \"load-{mib}.elf\"\nregisters = {{ rdi = 0, rsi = {DATA:#x} }}\nlimits.time = \"60s\"\n",
        mib + 32
    );
    fs::write(&config, text).while_doing("write", &config)?;
    Ok((elf, config))
}

/// An ELF file with two segments: code, then data, which begins at a whole page of the file (ELF gABI, chapters 4 and 5).
fn write_elf(path: &Path, code: &[u8], size: u64) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let code_size = u64::try_from(code.len()).unwrap_or_default();
    let mut head = Vec::new();
    head.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0"); // 64 bits, little-endian
    head.extend([2, 0, 62, 0, 1, 0, 0, 0]); // ET_EXEC, EM_X86_64, EV_CURRENT
    for word in [CODE, 64, 0] {
        head.extend(word.to_le_bytes()); // entry, program headers, no section headers
    }
    head.extend([0, 0, 0, 0, 64, 0, 56, 0, 2, 0, 64, 0, 0, 0, 0, 0]); // sizes and numbers of headers
    // Type and flags, offset, virtual and physical address, sizes in file and memory, alignment.
    for (flags, offset, address, size) in [(5_u32, PAGE, CODE, code_size), (6, 2 * PAGE, DATA, size)] {
        head.extend(1_u32.to_le_bytes());
        head.extend(flags.to_le_bytes());
        for word in [offset, address, address, size, size, PAGE] {
            head.extend(word.to_le_bytes());
        }
    }
    let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
    head.resize(page, 0);
    head.extend(code);
    head.resize(2 * page, 0);
    file.write_all(&head)?;
    let data: Vec<u8> = (1..=255).cycle().take(1 << 20).collect();
    for _ in 0..size >> 20 {
        file.write_all(&data)?;
    }
    file.flush()
}
