//! The same machine from start to end, many times in a row. Each time has to end as the first should.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result, While};
use crate::interrupt;
use crate::process::{Captured, capture};
use crate::progress::{say, seconds};

/// A run takes some tens of milliseconds.
const LIMIT: Duration = Duration::from_secs(60);

/// Does all runs; prints a line for each that went wrong, and a summary. Returns how many did.
pub(super) fn perform(cli: &Path, config: &Path, count: u32) -> Result<u32> {
    let text = std::fs::read_to_string(config).while_doing("read", config)?;
    let output = expected_output(&text)
        .ok_or_else(|| Failure::new(format!("{} expects no output", config.display())))?;
    say(format_args!("{count} runs of {}", config.display()));
    let start = Instant::now();
    let (mut done, mut failures) = (0, 0);
    let mut longest = Duration::ZERO;
    while done < count && !interrupt::seen() {
        let run = Instant::now();
        let captured = capture(Command::new(cli).arg("run").arg(config), None, LIMIT);
        let trouble = trouble(&captured.while_doing("run", cli)?, &output);
        done += 1;
        longest = longest.max(run.elapsed());
        if let Some(trouble) = trouble {
            failures += 1;
            println!("run {done}: {trouble}");
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

/// What the configuration says the guest prints.
fn expected_output(config: &str) -> Option<String> {
    let config: toml::Table = config.parse().ok()?;
    Some(config.get("expect")?.get("output")?.as_str()?.to_owned())
}

/// What is wrong with a run, if anything is.
fn trouble(captured: &Captured, output: &str) -> Option<String> {
    let Some(status) = captured.status else { return Some(format!("no end after {}", seconds(LIMIT))) };
    if !status.success() {
        return Some(format!("ended with {status}: {}", captured.stderr.trim_end()));
    }
    (captured.stdout != output).then(|| format!("printed {:?} instead of {output:?}", captured.stdout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(command: &str) -> Captured {
        capture(Command::new("sh").args(["-c", command]), None, LIMIT).unwrap()
    }

    #[test]
    fn status_and_output_have_to_be_right() {
        assert_eq!(trouble(&end("echo right"), "right\n"), None);
        let text = trouble(&end("echo right; echo late >&2; exit 102"), "right\n").unwrap();
        assert!(text.contains("102") && text.contains("late"), "{text}");
        let text = trouble(&end("echo wrong"), "right\n").unwrap();
        assert_eq!(text, r#"printed "wrong\n" instead of "right\n""#);
    }

    #[test]
    fn the_configuration_knows_its_output() {
        assert_eq!(expected_output("[expect]\noutput = \"x\\n\"\n").as_deref(), Some("x\n"));
        assert_eq!(expected_output("[expect]\nend = \"halt\"\n"), None);
    }
}
