//! Errors of TOML's syntax: the parser's own words, and help where it can be guessed what was meant.

use toml::de::Error;

use super::fault::{Fault, Faults};
use super::source::Span;

/// Reports what the parser found. It goes on behind an error, so there can be several.
pub(super) fn report(text: &str, errors: &[Error], faults: &mut Faults) {
    // A table given twice repeats its keys, too: that is one mistake.
    let mut repeated: Span = 0..0;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let found = text.get(span.clone()).unwrap_or_default();
        let message = error.message();
        let fault = if message == "duplicate key" {
            if repeated.contains(&span.start) {
                continue;
            }
            let fault = Fault::new(&span, format!("`{}` is here for the second time", found.escape_debug()));
            if is_table_header(text, &span) {
                repeated = span.start..end_of_table(text, span.end);
                match found {
                    "memory" | "load" => {
                        fault.help(format!("if there are several, write each as `[[{found}]]`"))
                    }
                    _ => fault.help("put its keys into one table"),
                }
            } else {
                fault.help("leave one of them out")
            }
        } else if message.starts_with("string values must be quoted") && found.is_empty() {
            Fault::new(&span, "a value is missing")
        } else if message.starts_with("string values must be quoted") {
            Fault::new(&span, "a text needs quotes").help(format!("write \"{}\"", found.escape_debug()))
        } else {
            Fault::new(&span, message)
        };
        faults.push(fault);
    }
}

/// Whether the key at `span` is the name of a table between brackets.
fn is_table_header(text: &str, span: &Span) -> bool {
    let line = text.get(..span.start).unwrap_or_default().rsplit('\n').next().unwrap_or_default();
    line.trim_start().starts_with('[')
}

/// Where the next table begins behind `from`.
fn end_of_table(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.find("\n[").map_or(text.len(), |length| from.saturating_add(length))
}
