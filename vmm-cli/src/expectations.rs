//! Checks a finished run against `[expect]`.
//!
//! Every line of the table is checked. Each mismatch names the expected and the actual value.

use std::fmt::Write as _;

use serde::Serialize;
use vm_memory::Bytes;
use vmm_core::machine::Machine;
use vmm_core::machine::error::Error;
use vmm_core::machine::run_loop::RunOutcome;
use vmm_core::spec::RegisterFile;

use crate::config::{Config, Expect, ExpectedMemory, MemoryLocation};
use crate::diagnostic::Diagnostic;
use crate::prepare::Files;
use crate::status::Status;

/// A line of `[expect]` that is not met.
#[derive(Debug, Serialize)]
pub(crate) struct Mismatch {
    /// Key, such as `expect.output`.
    pub(crate) key: String,
    /// Expected value.
    pub(crate) expected: String,
    /// Actual value.
    pub(crate) found: String,
}

impl Mismatch {
    /// Returns the mismatch as an error at its key in the TOML file.
    pub(crate) fn diagnostic(&self, config: &Config) -> Diagnostic {
        let Self { key, expected, found } = self;
        let message = format!("{key}: expected {expected}, found {found}");
        Diagnostic::error(Status::Unexpected, message).at(config.location(key))
    }
}

/// Returns all lines that are not met.
pub(crate) fn check(
    expect: &Expect,
    outcome: &RunOutcome,
    machine: &Machine,
    files: &Files,
    output: &[u8],
) -> Result<Vec<Mismatch>, Error> {
    let mut list = Vec::new();
    let mut differ = |key: &str, expected: String, found: String| {
        list.push(Mismatch { key: format!("expect.{key}"), expected, found });
    };
    if let Some(end) = expect.end
        && end != outcome.end.kind()
    {
        differ("end", end.name().to_owned(), format!("{} ({})", outcome.end.name(), outcome.end));
    }
    if let Some(text) = &expect.output
        && text.as_bytes() != output
    {
        differ("output", quoted(text.as_bytes()), quoted(output));
    }
    for text in &expect.output_contains {
        if !contains(output, text.as_bytes()) {
            differ("output-contains", quoted(text.as_bytes()), quoted(output));
        }
    }
    if let Some(pattern) = &expect.output_regex
        && !pattern.0.is_match(output)
    {
        differ("output-regex", format!("a match of `{}`", pattern.0.as_str()), quoted(output));
    }
    if let Some(code) = expect.exit_code {
        match outcome.end.exit_code() {
            Some(found) if found == code => {}
            Some(found) => differ("exit-code", code.to_string(), found.to_string()),
            None => differ("exit-code", code.to_string(), format!("none: {}", outcome.end)),
        }
    }
    let exits = outcome.exits.total();
    if let Some(expected) = expect.exits
        && expected != exits
    {
        differ("exits", expected.to_string(), exits.to_string());
    }
    if let Some(most) = expect.max_exits
        && exits > most
    {
        differ("max-exits", format!("at most {most}"), exits.to_string());
    }
    check_registers(expect, machine, &mut differ)?;
    for (index, expected) in expect.memory.iter().enumerate() {
        check_memory(index, expected, machine, files, &mut differ);
    }
    Ok(list)
}

/// Returns the texts of `cause` that the first paragraph of the autopsy does not contain.
pub(crate) fn check_cause(expect: &Expect, cause: Option<&str>) -> Vec<Mismatch> {
    let missing =
        expect.cause.iter().zip(0..).filter(|(text, _)| !cause.is_some_and(|cause| cause.contains(*text)));
    let found = cause.map_or_else(|| "no autopsy".to_owned(), |cause| quoted(cause.as_bytes()));
    let mismatch = |(text, index): (&String, u32)| Mismatch {
        key: format!("expect.cause.{index}"),
        expected: quoted(text.as_bytes()),
        found: found.clone(),
    };
    missing.map(mismatch).collect()
}

fn check_registers(
    expect: &Expect,
    machine: &Machine,
    differ: &mut impl FnMut(&str, String, String),
) -> Result<(), Error> {
    if expect.registers.is_empty() {
        return Ok(());
    }
    let regs = machine.vcpu().regs()?;
    // In 16- and 32-bit modes the guest cannot see the upper halves.
    let mask = if machine.spec().boot.mode.bits() == 64 { u64::MAX } else { u32::MAX.into() };
    for (register, expected) in &expect.registers {
        let found = regs.get(*register) & mask;
        if found != *expected {
            let key = format!("registers.{}", register.name());
            differ(&key, format!("{expected:#x}"), format!("{found:#x}"));
        }
    }
    Ok(())
}

fn check_memory(
    index: usize,
    expected: &ExpectedMemory,
    machine: &Machine,
    files: &Files,
    differ: &mut impl FnMut(&str, String, String),
) {
    let address = match &expected.location {
        MemoryLocation::Address(address) => Some(*address),
        // That the symbol exists was found out before the run.
        MemoryLocation::Symbol(name) => files.symbol(name).ok(),
    };
    let mut found = vec![0; expected.bytes.len()];
    let read = address.map(|address| machine.memory().read_slice(&mut found, address.into()));
    let key = format!("memory.{index}");
    match read {
        Some(Ok(())) if found == expected.bytes => {}
        Some(Ok(())) => differ(&key, value(expected, &expected.bytes), value(expected, &found)),
        Some(Err(_)) | None => differ(&key, value(expected, &expected.bytes), "no memory there".to_owned()),
    }
}

/// Formats a number or text as the configuration would write it.
fn value(expected: &ExpectedMemory, bytes: &[u8]) -> String {
    if expected.is_number {
        let number = bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        return format!("{number:#x}");
    }
    quoted(bytes)
}

fn contains(output: &[u8], text: &[u8]) -> bool {
    text.is_empty() || output.windows(text.len()).any(|window| window == text)
}

/// Maximum number of bytes shown of a text that differs.
const MAX_SHOWN: usize = 400;

/// Formats bytes as a quoted string, escaped where they are not plain text. Long strings are cut in the middle.
fn quoted(bytes: &[u8]) -> String {
    let escaped = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let half = MAX_SHOWN / 2;
    match (bytes.get(..half), bytes.len().checked_sub(half).and_then(|at| bytes.get(at..))) {
        (Some(head), Some(tail)) if bytes.len() > MAX_SHOWN => {
            let mut text = String::new();
            let left_out = bytes.len() - MAX_SHOWN;
            let _ = write!(text, "\"{}\" ({left_out} bytes left out) \"{}\"", escaped(head), escaped(tail));
            text
        }
        _ => format!("\"{}\"", escaped(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shown_escaped_and_cut() {
        assert_eq!(quoted(b"Hello\n\xff"), "\"Hello\\n\\xff\"");
        let long = quoted(&[b'x'; 1000]);
        assert!(long.contains("(600 bytes left out)") && long.len() < 500);
    }

    #[test]
    fn a_text_is_found_anywhere() {
        assert!(contains(b"one two", b"e t"));
        assert!(contains(b"", b""));
        assert!(!contains(b"one", b"one two"));
    }
}
