//! `bench suite`: time of a case in `vmm-cli test`, next to a shell loop over single runs and to QEMU.
//!
//! The guest is that of `start`. A thousand cases are a thousand configurations with a machine each, or one configuration
//! whose cases start from clones of one booted machine.

use std::fs;
use std::path::Path;

use super::Bench;
use super::interleave::{Candidate, StopRules, interleave};
use super::program::TimedCommand;
use super::start;
use super::table::{BenchRow, Goal};
use crate::failure::{FileContext, Result};

const CASES: u32 = 1000;
/// Number of QEMU starts per round, whose mean is used.
const STARTS: u32 = 20;

const LOOP: &str = "shell loop over vmm-cli run";
const FILES: &str = "vmm-cli test, a file each";
const COPIES: &str = "vmm-cli test, booted once";

pub(super) fn run(bench: &Bench) -> Result<Vec<BenchRow>> {
    let cases = if bench.quick { 20 } else { CASES };
    let starts = if bench.quick { 2 } else { STARTS };
    let directory = bench.programs.scratch().join("suite");
    let (files, copies) = (directory.join("files"), directory.join("copies"));
    generate(bench, &files, &copies, cases)?;

    let cli = bench.programs.cli.display().to_string();
    let test = |path: &Path| TimedCommand::new(&cli, ["test".to_owned(), path.display().to_string()]);
    let body = "i=0; while [ $i -lt $1 ]; do \"$2\" run \"$3\" || exit 1; i=$((i + 1)); done";
    let config = bench.config("bench-hello");
    let arguments = ["-c", body, "loop", &cases.to_string(), &cli, &config].map(str::to_owned);
    let mut runs = vec![
        (LOOP, TimedCommand::new("/bin/sh", arguments), 1, cases),
        (FILES, test(&files), 1, cases),
        (COPIES, test(&copies), 1, cases),
    ];
    let qemus = start::qemus(bench)?;
    let names: Vec<_> = qemus.iter().map(|(name, _)| *name).collect();
    runs.extend(qemus.into_iter().map(|(name, run)| (name, run, starts, starts)));
    let each = |run: &TimedCommand, times: u32, cases: u32| -> Result<f64> {
        let mut seconds = 0.0;
        for _ in 0..times {
            seconds += run.time()?;
        }
        Ok(seconds / f64::from(cases))
    };
    let candidates = runs
        .iter()
        .map(|(name, run, times, cases)| Candidate::new(*name, || each(run, *times, *cases)))
        .collect();
    let timings =
        interleave(candidates, bench.rules(StopRules { max_uncertainty: 0.02, ..StopRules::LONG }))?;
    let mut rows = Vec::new();
    for (name, ..) in &runs {
        let part = format!("suite: {cases} cases");
        let mut row = BenchRow::new(&part, "case", name, &timings, 1.0)?;
        if *name == COPIES {
            row.goals.push(Goal::ratio(format!("suite: {COPIES}, to the {LOOP}"), row.ratio, 0.2));
            for qemu in &names {
                let ratio = timings.ratio(COPIES, qemu)?;
                row.goals.push(Goal::ratio(format!("suite: {COPIES}, to {qemu}"), ratio, 0.02));
            }
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Writes both suites, replacing earlier ones.
fn generate(bench: &Bench, files: &Path, copies: &Path, cases: u32) -> Result<()> {
    for directory in [files, copies] {
        if directory.exists() {
            fs::remove_dir_all(directory).while_doing("empty", directory)?;
        }
        fs::create_dir_all(directory).while_doing("create", directory)?;
    }
    let elf = bench.workspace.path("guests/build/bench-hello.elf").display().to_string();
    let machine = format!("mode = \"long\"\nmemory.size = \"2MiB\"\nguest.elf = {elf:?}\n");
    let expect = "[expect]\nend = \"halt\"\noutput = \"!\"\n";
    for case in 0..cases {
        let path = files.join(format!("case-{case}.toml"));
        fs::write(&path, format!("{machine}{expect}")).while_doing("write", &path)?;
    }
    let test = format!("[test]\nsnapshot-at = \"_start\"\ncount = {cases}\n");
    let path = copies.join("cases.toml");
    fs::write(&path, format!("{machine}{test}{expect}")).while_doing("write", &path)
}
