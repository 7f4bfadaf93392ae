//! `bench load`: loads a guest file into memory; the guest then reads none, a tenth or all of its pages.
//!
//! The files are generated: the code of guests/bench-touch and one large data segment. The baseline loads them with read()
//! and with mmap(). All files are in the page cache, because the first round is not counted.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Bench;
use super::interleave::{Candidate, StopRules, interleave};
use super::program::TimedCommand;
use super::table::{BenchRow, Goal};
use crate::failure::{FileContext, Result};

const CLI: &str = "vmm-cli";
const READ: &str = "C, read()";
const MAP: &str = "C, mmap()";

/// Address of the code. `xtask/bench/load.c` expects code and data in this order.
const CODE: u64 = 0x10_0000;
/// Address of the data.
const DATA: u64 = 0x100_0000;
const PAGE_SIZE: u64 = 4096;
/// Size of the largest file in MiB.
const MAX_MIB: u64 = 1024;

pub(super) fn run(bench: &Bench) -> Result<Vec<BenchRow>> {
    let mut rows = Vec::new();
    let sizes: &[u64] = if bench.quick { &[1] } else { &[1, 64, MAX_MIB] };
    for &mib in sizes {
        let (elf, config) = files(bench, mib)?;
        for percent in [0, 10, 100] {
            rows.extend(measure(bench, LoadCase { mib, percent, ring: 0 }, &elf, &config)?);
        }
        if mib == MAX_MIB {
            // A host that interprets ring 0 may map memory differently in ring 3.
            rows.extend(measure(bench, LoadCase { mib, percent: 100, ring: 3 }, &elf, &config)?);
        }
        fs::remove_file(&elf).while_doing("remove", &elf)?;
    }
    Ok(rows)
}

/// File size in MiB, share of pages that the guest reads in percent, and its ring.
#[derive(Clone, Copy)]
struct LoadCase {
    mib: u64,
    percent: u64,
    ring: u8,
}

/// Measures one case.
fn measure(bench: &Bench, case: LoadCase, elf: &Path, config: &Path) -> Result<Vec<BenchRow>> {
    let LoadCase { mib, percent, ring } = case;
    let part = format!("load: {mib} MiB, {percent} % touched, ring {ring}");
    let pages = mib * (1 << 20) / PAGE_SIZE * percent / 100;
    let baseline = |how: &str| {
        let arguments = [elf.display().to_string(), how.to_owned(), pages.to_string(), ring.to_string()];
        TimedCommand::new(bench.programs.baseline("load"), arguments)
    };
    let set = [format!("registers.rdi={pages}"), format!("ring={ring}")];
    let set = set.into_iter().flat_map(|assignment| ["--set".to_owned(), assignment]);
    let arguments = ["run".to_owned(), config.display().to_string()].into_iter().chain(set);
    let runs = [
        (READ, baseline("read")),
        (MAP, baseline("map")),
        (CLI, TimedCommand::new(&bench.programs.cli, arguments)),
    ];
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let rules = if mib < MAX_MIB {
        StopRules { max_uncertainty: 0.01, ..StopRules::SHORT }
    } else {
        StopRules { min_rounds: 5, max_uncertainty: 0.02, ..StopRules::LONG }
    };
    let timings = interleave(candidates, bench.rules(rules))?;
    let mut rows = Vec::new();
    for (name, run) in &runs {
        let (calls, peak) = bench.programs.probe(run)?;
        let row = BenchRow::new(&part, "run", name, &timings, 1.0)?;
        rows.push(BenchRow { calls: Some(calls), peak_kib: Some(peak), ..row });
    }
    if let (MAX_MIB, Some(row)) = (mib, rows.last_mut()) {
        row.goals.extend(goal(case, row));
    }
    Ok(rows)
}

/// Returns the goal of a case with the largest file.
fn goal(case: LoadCase, row: &BenchRow) -> Option<Goal> {
    match case.percent {
        0 => Some(Goal {
            what: "load: 1 GiB untouched, vmm-cli from spawn to exit".to_owned(),
            measured: row.time.median / 1e3,
            limit: 2.0,
            unit: "ms".to_owned(),
        }),
        100 => {
            let what = format!("load: 1 GiB all touched, ring {}, vmm-cli to C with read()", case.ring);
            Some(Goal::ratio(what, row.ratio, 1.0))
        }
        _ => None,
    }
}

/// Writes a guest with `mib` MiB of data, and its configuration. Returns both paths.
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

/// Writes an ELF file with two segments, code and data, each at a page boundary of the file (ELF gABI, chapters 4 and 5).
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
    for (flags, offset, address, size) in
        [(5_u32, PAGE_SIZE, CODE, code_size), (6, 2 * PAGE_SIZE, DATA, size)]
    {
        head.extend(1_u32.to_le_bytes());
        head.extend(flags.to_le_bytes());
        for word in [offset, address, address, size, size, PAGE_SIZE] {
            head.extend(word.to_le_bytes());
        }
    }
    let page = usize::try_from(PAGE_SIZE).unwrap_or(usize::MAX);
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
