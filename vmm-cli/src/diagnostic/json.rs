//! JSON form of diagnostics (`--format json`), for editors and CI.
//!
//! An array with one object for each diagnostic:
//!
//! | key | value |
//! |---|---|
//! | `file` | path as it was given, `command line` for an option, or null |
//! | `line`, `column` | position of the first character, both from 1; null without a location in a text |
//! | `end_line`, `end_column` | position after the last character |
//! | `severity` | `error` or `warning` |
//! | `status` | exit status that it leads to (see [`Status`](crate::status::Status)) |
//! | `message` | message |
//! | `help` | suggested fix, or null |
//!
//! Columns count characters (Unicode scalar values), not bytes, as the text form does.

use serde::Serialize;

use super::{Diagnostic, Diagnostics, Location, Source};

#[derive(Serialize)]
struct Row<'a> {
    file: Option<&'a str>,
    line: Option<usize>,
    column: Option<usize>,
    end_line: Option<usize>,
    end_column: Option<usize>,
    severity: &'static str,
    status: u8,
    message: &'a str,
    help: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn new(diagnostic: &'a Diagnostic) -> Self {
        let (file, start, end) = match &diagnostic.location {
            Location::Nowhere => (None, None, None),
            Location::File(name) => (Some(name.as_str()), None, None),
            Location::Text(place) => (
                Some(place.source.name.as_str()),
                Some(line_and_column(&place.source, place.span.start)),
                Some(line_and_column(&place.source, place.span.end)),
            ),
        };
        Self {
            file,
            line: start.map(|(line, _)| line),
            column: start.map(|(_, column)| column),
            end_line: end.map(|(line, _)| line),
            end_column: end.map(|(_, column)| column),
            severity: diagnostic.severity.name(),
            status: diagnostic.status.code(),
            message: &diagnostic.message,
            help: diagnostic.help.as_deref(),
        }
    }
}

/// Returns line and column of a byte, both from 1.
fn line_and_column(source: &Source, offset: usize) -> (usize, usize) {
    let before = source.text.get(..source.char_boundary(offset)).unwrap_or_default();
    let line = before.matches('\n').count().saturating_add(1);
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count().saturating_add(1);
    (line, column)
}

/// Renders all diagnostics as a JSON array.
#[must_use]
pub fn render(diagnostics: &Diagnostics) -> String {
    let rows: Vec<Row<'_>> = diagnostics.0.iter().map(Row::new).collect();
    // Strings, numbers and nulls always serialize: the fallback is never used.
    serde_json::to_string_pretty(&rows).unwrap_or_else(|_| "[]".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostic::Place;
    use crate::status::Status;

    #[test]
    fn columns_count_characters() {
        let source = Arc::new(Source { name: "a.toml".to_owned(), text: "# ü\nx = \"ä\" 1\n".to_owned() });
        let place = Place { source, span: 14..15 };
        let diagnostics = Diagnostics(vec![
            Diagnostic::error(Status::Configuration, "expected a newline").at(Location::Text(place)),
            Diagnostic::error(Status::Host, "no /dev/kvm").with_help(Some("load kvm")),
        ]);
        let value: serde_json::Value = serde_json::from_str(&render(&diagnostics)).unwrap();
        assert_eq!(value[0]["file"], "a.toml");
        assert_eq!((&value[0]["line"], &value[0]["column"]), (&2.into(), &9.into()));
        assert_eq!((&value[0]["end_line"], &value[0]["end_column"]), (&2.into(), &10.into()));
        assert_eq!((&value[0]["severity"], &value[0]["status"]), (&"error".into(), &105.into()));
        assert!(value[0]["help"].is_null());
        assert!(value[1]["file"].is_null() && value[1]["line"].is_null());
        assert_eq!((&value[1]["status"], &value[1]["help"]), (&106.into(), &"load kvm".into()));
    }
}
