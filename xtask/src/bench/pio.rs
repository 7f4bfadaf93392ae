//! `bench pio`: the cost of an exit next to what it cost before: plain, watched, and on another build of vmm-cli.
//!
//! The plain run is there twice: how far its ratio to itself is from 1 is the noise.

use std::path::Path;

use super::Bench;
use super::program::Run;
use super::race::{Candidate, Rules, race};
use super::row::Row;
use crate::failure::Result;

pub(super) fn run(bench: &Bench, baseline: Option<&Path>) -> Result<Vec<Row>> {
    let (exits, times) = if bench.quick { (1000, 1e3) } else { (20_000, 2e4) };
    let run = |program: &Path, options: &[&str]| {
        let arguments = [
            "run".to_owned(),
            bench.config("bench-pio"),
            "--set".to_owned(),
            format!("registers.rdi={exits}"),
        ];
        Run::new(program, arguments.into_iter().chain(options.iter().map(|option| (*option).to_owned())))
    };
    let cli = bench.programs.cli.as_path();
    let mut runs =
        vec![("plain", run(cli, &[])), ("plain again", run(cli, &[])), ("--stats", run(cli, &["--stats"]))];
    runs.extend(baseline.map(|program| ("baseline", run(program, &[]))));
    let candidates = runs.iter().map(|(name, run)| Candidate::new(*name, || run.time())).collect();
    let race = race(candidates, bench.rules(Rules::LONG))?;
    runs.iter().map(|(name, _)| Row::of("pio", "exit", name, &race, times)).collect()
}
