//! Errors and warnings as values, and their text form.
//!
//! A [`Diagnostic`] points into a text (a TOML file, the command line), names a file, or has no location. It has the
//! [`Status`] that the process exits with. `annotate-snippets` renders the text form. The JSON form is in [`json`].

pub mod json;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::status::Status;
use crate::stderr;

/// Named text that diagnostics point into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name to show: a path as the user gave it, or `command line`.
    pub name: String,
    /// Complete text that diagnostics point into.
    pub text: String,
}

impl Source {
    /// Returns the last character boundary at or before `offset`.
    fn char_boundary(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0)
    }
}

/// Range of bytes in a text that diagnostics point into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Text that the bytes are in.
    pub source: Arc<Source>,
    /// Range of bytes in the text. An empty range marks a position.
    pub span: Range<usize>,
}

/// Location that a diagnostic points at: a range of a text, a file, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Diagnostic without a location.
    Nowhere,
    /// Whole file, by the name to show.
    File(String),
    /// Range of bytes in a text.
    Text(Place),
}

/// Severity of a diagnostic: error or warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The run cannot continue.
    Error,
    /// The run continues in spite of it.
    Warning,
}

impl Severity {
    /// Returns the word for the severity, `error` or `warning`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Error or warning for the user, with its location and suggested fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Severity: error or warning.
    pub severity: Severity,
    /// Exit status of a run that fails because of the diagnostic.
    pub status: Status,
    /// Text of the message, with its data; lower case, no full stop.
    pub message: String,
    /// Location that the diagnostic points at.
    pub location: Location,
    /// Related locations in texts, each with a label.
    pub related: Vec<(Place, String)>,
    /// Suggested fix, if there is one.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates an error without a location.
    #[must_use]
    pub fn error(status: Status, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            status,
            message: message.into(),
            location: Location::Nowhere,
            related: Vec::new(),
            help: None,
        }
    }

    /// Creates a warning without a location.
    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(Status::Success, message) }
    }

    /// Sets the location that the diagnostic points at.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = location;
        self
    }

    /// Sets the suggested fix, if there is one.
    #[must_use]
    pub fn with_help(mut self, help: Option<impl Into<String>>) -> Self {
        self.help = help.map(Into::into);
        self
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        match &self.location {
            Location::Nowhere => {}
            Location::File(name) => group = group.element(Origin::path(name.as_str())),
            Location::Text(place) => {
                let primary = AnnotationKind::Primary.span(place.shown());
                group = group.element(place.snippet().annotation(primary).annotations(
                    self.related.iter().filter(|(other, _)| other.source == place.source).map(
                        |(other, label)| AnnotationKind::Context.span(other.shown()).label(label.as_str()),
                    ),
                ));
                for (other, label) in self.related.iter().filter(|(other, _)| other.source != place.source) {
                    let context = AnnotationKind::Context.span(other.shown()).label(label.as_str());
                    group = group.element(other.snippet().annotation(context));
                }
            }
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help.as_str()));
        }
        renderer.render(&[group])
    }
}

impl Place {
    fn snippet<'a, T: Clone>(&'a self) -> Snippet<'a, T> {
        Snippet::source(self.source.text.as_str()).path(self.source.name.as_str())
    }

    /// Returns the span to show: inside the text, on character boundaries, and of the first line only. A caret under
    /// each line of a long table would show no more than one under its first line.
    fn shown(&self) -> Range<usize> {
        let start = self.source.char_boundary(self.span.start);
        let end = self.source.char_boundary(self.span.end).max(start);
        let line = self.source.text.get(start..end).and_then(|piece| piece.find('\n'));
        start..line.map_or(end, |length| start.saturating_add(length))
    }
}

/// List of diagnostics in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Renders all diagnostics as text without colours, separated by blank lines, with a final newline.
    #[must_use]
    pub fn to_plain(&self) -> String {
        self.render(&Renderer::plain())
    }

    /// Renders all diagnostics with ANSI colours. Print the text through `anstream`, which removes colours where the
    /// output is no terminal or `NO_COLOR` is set.
    #[must_use]
    pub fn to_styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    /// Prints all diagnostics to standard error.
    pub fn eprint(&self) {
        stderr::print(format_args!("{}", self.to_styled()));
    }

    /// Returns the exit status of a run that fails because of the diagnostics: that of the first error.
    #[must_use]
    pub fn status(&self) -> Status {
        let error = self.0.iter().find(|diagnostic| diagnostic.severity == Severity::Error);
        error.map_or(Status::Success, |diagnostic| diagnostic.status)
    }

    fn render(&self, renderer: &Renderer) -> String {
        let texts: Vec<String> = self.0.iter().map(|diagnostic| diagnostic.render(renderer) + "\n").collect();
        texts.join("\n")
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_plain())
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}
