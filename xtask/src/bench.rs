//! `cargo xtask bench`: what something costs, next to what it cost before.
//!
//! Times on a shared machine drift, so none is worth anything alone. All candidates run in turns, in each round once, and in
//! another order each time. What counts is the ratio to the plain run *of the same round*; of
//! all rounds its median is shown. The plain run is there twice: how far its ratio to itself is from 1 is the noise.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result, While};
use crate::guests;
use crate::progress::say;
use crate::run::kvm_is_usable;
use crate::workspace::{Workspace, plain_path};

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum Bench {
    /// What an exit costs: a guest that does nothing but write to a port, plain, with --stats, and on another build
    Pio {
        /// Port writes in one run
        #[arg(long, default_value_t = 20_000)]
        exits: u64,
        /// Rounds
        #[arg(long, default_value_t = 41)]
        rounds: usize,
        /// Another vmm-cli to compare with, such as one built from an older commit
        #[arg(long, value_name = "PROGRAM")]
        baseline: Option<PathBuf>,
    },
}

/// One way to run the guest.
struct Candidate {
    name: &'static str,
    program: PathBuf,
    options: &'static [&'static str],
    times: Vec<Duration>,
}

/// Measures; results go to standard output.
pub(crate) fn run(workspace: &Workspace, bench: &Bench) -> Result<u8> {
    let Bench::Pio { exits, rounds, baseline } = bench;
    kvm_is_usable().map_err(|reason| Failure::new(reason).with_status(106))?;
    guests::report(&guests::build(workspace)?);
    let program = workspace.build_cli_for_speed()?;
    let candidate = |name, program: &Path, options| Candidate {
        name,
        program: program.to_owned(),
        options,
        times: Vec::new(),
    };
    let mut candidates = vec![
        candidate("plain", &program, &[]),
        candidate("plain again", &program, &[]),
        candidate("--stats", &program, &["--stats"]),
    ];
    if let Some(baseline) = baseline {
        candidates.push(candidate("baseline", &plain_path(baseline)?, &[]));
    }
    say(format_args!("{rounds} rounds of {} runs, {exits} exits each", candidates.len()));
    let config = workspace.path("configs/bench-pio.toml");
    for round in 0..*rounds {
        // Now before, now behind each of the others.
        candidates.rotate_left(1);
        if round % 2 == 1 {
            candidates.reverse();
        }
        for candidate in &mut candidates {
            let time = time(candidate, &config, *exits)?;
            // The first round warms caches up.
            if round > 0 {
                candidate.times.push(time);
            }
        }
    }
    candidates.sort_by_key(|candidate| {
        ["plain", "plain again", "--stats"].iter().position(|n| *n == candidate.name).unwrap_or(3)
    });
    print(&candidates, *exits)
}

/// Start to exit of one run.
fn time(candidate: &Candidate, config: &Path, exits: u64) -> Result<Duration> {
    let mut command = Command::new(&candidate.program);
    command.arg("run").arg(config).args(["--set", &format!("registers.rdi={exits}")]).args(candidate.options);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let started = Instant::now();
    let status = command.status().while_doing("start", &candidate.program)?;
    let elapsed = started.elapsed();
    if status.success() {
        return Ok(elapsed);
    }
    let name = candidate.name;
    Err(Failure::new(format!("{name}: {} ended with {status}", candidate.program.display())))
}

/// A line for each: the median of its times, of one exit, and of its ratios to the plain run of the same round.
fn print(candidates: &[Candidate], exits: u64) -> Result<u8> {
    let Some(plain) = candidates.first().map(|plain| plain.times.clone()) else { return Ok(1) };
    println!("             median ms   us an exit    ratio   25 % to 75 %");
    for candidate in candidates {
        let times: Vec<f64> = candidate.times.iter().map(Duration::as_secs_f64).collect();
        let ratios: Vec<f64> = candidate
            .times
            .iter()
            .zip(&plain)
            .map(|(time, plain)| time.as_secs_f64() / plain.as_secs_f64())
            .collect();
        let (Some(seconds), Some(ratio)) = (quantile(&times, 0.5), quantile(&ratios, 0.5)) else {
            return Err(Failure::new("at least two rounds are needed: the first is not counted"));
        };
        let (low, high) =
            (quantile(&ratios, 0.25).unwrap_or(ratio), quantile(&ratios, 0.75).unwrap_or(ratio));
        #[expect(clippy::cast_precision_loss, reason = "fewer exits than 2^52")]
        let exit = seconds * 1e6 / exits.max(1) as f64;
        println!(
            "{:<12} {:>9.2} {exit:>12.3} {ratio:>8.3}   {low:.3} to {high:.3}",
            candidate.name,
            seconds * 1e3
        );
    }
    Ok(0)
}

/// The value that this share of all are below; `None` of none.
fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a list that is in memory"
    )]
    let index = (sorted.len().checked_sub(1)? as f64 * share).round() as usize;
    sorted.get(index).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_list() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(quantile(&values, 0.5), Some(3.0));
        assert_eq!((quantile(&values, 0.25), quantile(&values, 0.75)), (Some(2.0), Some(4.0)));
        assert_eq!(quantile(&[7.0], 0.5), Some(7.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
