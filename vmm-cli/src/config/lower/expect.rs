//! `[expect]`: checks that one run can meet all expectations.

use regex::bytes::RegexBuilder;
use vmm_core::Gpa;
use vmm_core::machine::end::EndKind;
use vmm_core::spec::UnmappedPolicy;

use super::{Context, or, registers};
use crate::config::expect::{Expect, ExpectedMemory, MemoryLocation, Pattern};
use crate::config::problem::ConfigProblem;
use crate::config::schema::{self, ExpectMemory, Spanned};
use crate::config::source::Span;
use crate::config::values::{Count, Word};

/// Lowers the table.
pub(super) fn lower(cx: &mut Context<'_>) -> Option<Expect> {
    let table = &cx.document.expect.as_ref()?.value;
    check_end(cx, table);
    check_counts(cx, table);
    check_output(cx, table);
    let mut memory = Vec::new();
    for (entry, span, path) in table.memory.iter().flat_map(|memory| memory.tables("expect.memory")) {
        memory.extend(expected_memory(cx, entry, &span, &path));
    }
    Some(Expect {
        end: table.end.as_ref().map(|at| at.value),
        output: table.output.as_ref().map(|at| at.value.clone()),
        output_contains: table
            .output_contains
            .iter()
            .flat_map(|at| &at.value)
            .map(|at| at.value.clone())
            .collect(),
        cause: table.cause.iter().flat_map(|at| &at.value).map(|at| at.value.clone()).collect(),
        output_regex: table.output_regex.as_ref().and_then(|at| pattern(cx, at)),
        exit_code: table.exit_code.as_ref().and_then(|at| exit_code(cx, at)),
        exits: table.exits.as_ref().map(|at| at.value.0),
        max_exits: table.max_exits.as_ref().map(|at| at.value.0),
        registers: table.registers.as_ref().map(|at| registers::values(cx, &at.value)).unwrap_or_default(),
        memory,
    })
}

/// Checks that the rest of the file does not rule out the expected end.
fn check_end(cx: &mut Context<'_>, table: &schema::ExpectTable) {
    let Some(end) = &table.end else { return };
    if let Some(code) = &table.exit_code
        && end.value != EndKind::Exit
    {
        let problem =
            ConfigProblem::new(&code.span, "an exit code is expected from a run that ends in another way");
        cx.problem(
            problem
                .related(&end.span, "the end expected")
                .help("expect `end = \"exit\"`, or leave one of them out"),
        );
    }
    let exit_limit = cx.document.limits.as_ref().and_then(|limits| limits.value.exits.as_ref());
    if end.value == EndKind::ExitLimit && exit_limit.is_none() && !cx.problems.has_unread_inside("limits") {
        let problem = ConfigProblem::new(&end.span, "there is no exit limit that the run could end at");
        cx.problem(problem.help("add `exits` to `[limits]`"));
    }
    if end.value == EndKind::Unmapped
        && or(&cx.document.unmapped, UnmappedPolicy::ReadOnes) == UnmappedPolicy::ReadOnes
        && !cx.problems.is_unread("unmapped")
    {
        let problem = ConfigProblem::new(&end.span, "an access to nothing does not end this run");
        cx.problem(problem.help("add `unmapped = \"stop\"` at the top of the file"));
    }
}

fn check_counts(cx: &mut Context<'_>, table: &schema::ExpectTable) {
    let Some(exits) = &table.exits else { return };
    if let Some(most) = &table.max_exits
        && exits.value > most.value
    {
        let message = format!("{} exits are expected, but at most {}", exits.value.0, most.value.0);
        let problem = ConfigProblem::new(&exits.span, message).related(&most.span, "the most expected");
        cx.problem(problem.help("leave one of them out"));
    }
    if let Some(limit) = cx.document.limits.as_ref().and_then(|limits| limits.value.exits.as_ref())
        && exits.value > limit.value
    {
        let message =
            format!("{} exits are expected, but the run is stopped at {}", exits.value.0, limit.value.0);
        cx.problem(ConfigProblem::new(&exits.span, message).related(&limit.span, "the limit"));
    }
}

fn check_output(cx: &mut Context<'_>, table: &schema::ExpectTable) {
    let Some(whole) = &table.output else { return };
    for part in table.output_contains.iter().flat_map(|at| &at.value) {
        if !whole.value.contains(&part.value) {
            let problem = ConfigProblem::new(&part.span, "this text is not in the output that is expected");
            cx.problem(problem.related(&whole.span, "the whole output").help("leave one of them out"));
        }
    }
}

/// Compiles the pattern.
fn pattern(cx: &mut Context<'_>, at: &Spanned<String>) -> Option<Pattern> {
    match RegexBuilder::new(&at.value).unicode(false).build() {
        Ok(regex) => Some(Pattern(regex)),
        Err(error) => {
            // A syntax error has several lines; the last one is the message.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            let problem = ConfigProblem::new(&at.span, format!("this is not a regular expression: {reason}"));
            cx.problem(problem.help("in a TOML string between ' ' a backslash stands for itself"));
            None
        }
    }
}

fn exit_code(cx: &mut Context<'_>, at: &Spanned<Count>) -> Option<u32> {
    let code = u32::try_from(at.value.0).ok();
    if code.is_none() {
        cx.problem(ConfigProblem::new(&at.span, "an exit code has at most 32 bits"));
    }
    code
}

fn expected_memory(
    cx: &mut Context<'_>,
    entry: &ExpectMemory,
    span: &Span,
    path: &str,
) -> Option<ExpectedMemory> {
    // An unreadable key has been reported: what was meant is unknown, so nothing else is reported.
    let whole = !cx.problems.has_unread_inside(path);
    let location = match (&entry.address, &entry.symbol) {
        (Some(address), None) => {
            if cx.regions.is_unmapped(address.value.0) {
                let problem =
                    ConfigProblem::new(&address.span, format!("no memory at {:#x}", address.value.0));
                cx.problem(problem.help(cx.regions.describe()));
            }
            Some(MemoryLocation::Address(Gpa(address.value.0)))
        }
        (None, Some(symbol)) => {
            if cx.document.guest.as_ref().is_some_and(|guest| guest.value.flat.is_some()) {
                let message =
                    format!("a flat binary has no symbols, so no `{}`", symbol.value.escape_debug());
                cx.problem(ConfigProblem::new(&symbol.span, message).help("give the `address`"));
            }
            Some(MemoryLocation::Symbol(symbol.value.clone()))
        }
        (Some(address), Some(symbol)) => {
            let problem =
                ConfigProblem::new(&symbol.span, "a place in memory is an `address` or a `symbol`, not both");
            cx.problem(problem.related(&address.span, "the address is here"));
            None
        }
        (None, None) => {
            if whole {
                cx.problem(
                    ConfigProblem::new(span, "no place in memory is named").help("add `address` or `symbol`"),
                );
            }
            None
        }
    };
    let numbers = [(&entry.u8, 1), (&entry.u16, 2), (&entry.u32, 4), (&entry.u64, 8)];
    let mut contents: Vec<(Span, Vec<u8>, bool)> = numbers
        .into_iter()
        .filter_map(|(at, width)| at.as_ref().map(|at| (at.span.clone(), number(cx, at, width), true)))
        .collect();
    if let Some(list) = &entry.bytes {
        let bytes = list.value.iter().filter_map(|at| byte(cx, at)).collect();
        contents.push((list.span.clone(), bytes, false));
    }
    if let Some(text) = &entry.text {
        contents.push((text.span.clone(), text.value.as_bytes().to_vec(), false));
    }
    if let [(first, ..), (second, ..), ..] = contents.as_slice() {
        let problem = ConfigProblem::new(second, "one place in memory has one value");
        cx.problem(problem.related(first, "the first value").help("write a second `[[expect.memory]]`"));
    }
    match contents.pop() {
        Some((at, bytes, _)) if bytes.is_empty() => {
            cx.problem(ConfigProblem::new(&at, "no bytes are expected, which says nothing"));
            None
        }
        Some((_, bytes, is_number)) => Some(ExpectedMemory { location: location?, bytes, is_number }),
        None => {
            if whole {
                let problem = ConfigProblem::new(span, "no value is expected at this place");
                cx.problem(problem.help("add one of `u8`, `u16`, `u32`, `u64`, `bytes` and `text`"));
            }
            None
        }
    }
}

/// Returns the bytes of a little-endian number.
fn number(cx: &mut Context<'_>, at: &Spanned<Word>, width: usize) -> Vec<u8> {
    let bytes = at.value.0.to_le_bytes();
    let (low, high) = bytes.split_at(width);
    if high.iter().any(|byte| *byte != 0) {
        let message = format!("{:#x} does not fit in {} bits", at.value.0, width.saturating_mul(8));
        cx.problem(ConfigProblem::new(&at.span, message).help("use a wider type"));
    }
    low.to_vec()
}

fn byte(cx: &mut Context<'_>, at: &Spanned<Count>) -> Option<u8> {
    let byte = u8::try_from(at.value.0).ok();
    if byte.is_none() {
        cx.problem(
            ConfigProblem::new(&at.span, format!("{} is not a byte", at.value.0))
                .help("bytes go from 0 to 255"),
        );
    }
    byte
}
