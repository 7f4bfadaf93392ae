//! Runs one machine to its end many times, and checks exit status and output each time.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Failure, FileContext, Result};
use crate::interrupt;
use crate::process::{Captured, capture};
use crate::progress::{say, seconds};

/// Limit for one run, which takes some tens of milliseconds on an idle machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// Performs all runs and prints a line for each failure and a summary. Returns the number of failures.
pub(super) fn perform(cli: &Path, config: &Path, count: u32) -> Result<u32> {
    let text = std::fs::read_to_string(config).while_doing("read", config)?;
    let output = expected_output(&text)
        .ok_or_else(|| Failure::new(format!("{} expects no output", config.display())))?;
    say(format_args!("{count} runs of {}", config.display()));
    let start = Instant::now();
    let (mut done, mut failures) = (0, 0);
    let mut longest = Duration::ZERO;
    while done < count && !interrupt::requested() {
        let run = Instant::now();
        let captured = capture(Command::new(cli).arg("run").arg(config), None, RUN_TIMEOUT);
        let problem = problem(&captured.while_doing("run", cli)?, &output);
        done += 1;
        longest = longest.max(run.elapsed());
        if let Some(problem) = problem {
            failures += 1;
            println!("run {done}: {problem}");
        }
    }
    println!(
        "{done} runs in a row: {} right, {failures} wrong, {} in all, {} the longest",
        done - failures,
        seconds(start.elapsed()),
        seconds(longest)
    );
    Ok(failures)
}

/// Returns `expect.output` of a configuration.
fn expected_output(config: &str) -> Option<String> {
    let config: toml::Table = config.parse().ok()?;
    Some(config.get("expect")?.get("output")?.as_str()?.to_owned())
}

/// Returns the reason why a run failed, or `None` if it passed.
fn problem(captured: &Captured, output: &str) -> Option<String> {
    let Some(status) = captured.status else { return Some(format!("no end after {}", seconds(RUN_TIMEOUT))) };
    if !status.success() {
        return Some(format!("ended with {status}: {}", captured.stderr.trim_end()));
    }
    (captured.stdout != output).then(|| format!("printed {:?} instead of {output:?}", captured.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> Captured {
        capture(Command::new("sh").args(["-c", command]), None, RUN_TIMEOUT).unwrap()
    }

    #[test]
    fn status_and_output_are_checked() {
        assert_eq!(problem(&run("echo right"), "right\n"), None);
        let text = problem(&run("echo right; echo late >&2; exit 102"), "right\n").unwrap();
        assert!(text.contains("102") && text.contains("late"), "{text}");
        let text = problem(&run("echo wrong"), "right\n").unwrap();
        assert_eq!(text, r#"printed "wrong\n" instead of "right\n""#);
    }

    #[test]
    fn the_expected_output_comes_from_the_configuration() {
        assert_eq!(expected_output("[expect]\noutput = \"x\\n\"\n").as_deref(), Some("x\n"));
        assert_eq!(expected_output("[expect]\nend = \"halt\"\n"), None);
    }
}
