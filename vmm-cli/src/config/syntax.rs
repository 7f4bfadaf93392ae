//! TOML syntax errors: the parser's messages, with help if the intention can be guessed.

use toml::de::Error;

use super::problem::{ConfigProblem, ConfigProblems};
use super::source::Span;

/// Reports the parser's errors. The parser continues after an error, so there can be several.
pub(super) fn report(text: &str, errors: &[Error], problems: &mut ConfigProblems) {
    // A table that is given twice repeats its keys as well: that is one problem.
    let mut repeated: Span = 0..0;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        let found = text.get(span.clone()).unwrap_or_default();
        let message = error.message();
        let problem = if message == "duplicate key" {
            if repeated.contains(&span.start) {
                continue;
            }
            let problem =
                ConfigProblem::new(&span, format!("`{}` is here for the second time", found.escape_debug()));
            if is_table_header(text, &span) {
                repeated = span.start..end_of_table(text, span.end);
                match found {
                    "memory" | "load" => {
                        problem.help(format!("if there are several, write each as `[[{found}]]`"))
                    }
                    _ => problem.help("put its keys into one table"),
                }
            } else {
                problem.help("leave one of them out")
            }
        } else if message.starts_with("string values must be quoted") && found.is_empty() {
            ConfigProblem::new(&span, "a value is missing")
        } else if message.starts_with("string values must be quoted") {
            ConfigProblem::new(&span, "a text needs quotes")
                .help(format!("write \"{}\"", found.escape_debug()))
        } else {
            ConfigProblem::new(&span, message)
        };
        problems.push(problem);
    }
}

/// Returns true if the key at `span` is the name of a table in brackets.
fn is_table_header(text: &str, span: &Span) -> bool {
    let line = text.get(..span.start).unwrap_or_default().rsplit('\n').next().unwrap_or_default();
    line.trim_start().starts_with('[')
}

/// Returns the offset of the next table after `from`, or the end of the text.
fn end_of_table(text: &str, from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    rest.find("\n[").map_or(text.len(), |length| from.saturating_add(length))
}
