//! `bench pio`: time of a port exit, plain, with `--stats`, and with another build of vmm-cli.
//!
//! The plain run is measured twice: the deviation of its ratio to itself from 1 is the noise.

use std::path::Path;

use super::Bench;
use super::interleave::{Candidate, StopRules, interleave};
use super::program::TimedCommand;
use super::table::BenchRow;
use crate::failure::Result;

pub(super) fn run(bench: &Bench, baseline: Option<&Path>) -> Result<Vec<BenchRow>> {
    let (exits, times) = if bench.quick { (1000, 1e3) } else { (20_000, 2e4) };
    let run = |program: &Path, options: &[&str]| {
        let arguments = [
            "run".to_owned(),
            bench.config("bench-pio"),
            "--set".to_owned(),
            format!("registers.rdi={exits}"),
        ];
        TimedCommand::new(
            program,
            arguments.into_iter().chain(options.iter().map(|option| (*option).to_owned())),
        )
    };
    let cli = bench.programs.cli.as_path();
    let mut runs =
        vec![("plain", run(cli, &[])), ("plain again", run(cli, &[])), ("--stats", run(cli, &["--stats"]))];
    runs.extend(baseline.map(|program| ("baseline", run(program, &[]))));
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let timings = interleave(candidates, bench.rules(StopRules::LONG))?;
    runs.iter().map(|(name, _)| BenchRow::new("pio", "exit", name, &timings, times)).collect()
}
