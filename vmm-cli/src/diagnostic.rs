//! Mistakes and troubles, each as one value, and how they are shown.
//!
//! A [`Diagnostic`] may point at a piece of text (a TOML file, the command line), name only a file, or stand alone.
//! It knows its [`Status`], so whoever shows it also knows how the process ends. Text rendering is left to
//! `annotate-snippets`; the JSON form for editors and CI is in [`json`].

pub mod json;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use crate::status::Status;
use crate::stderr;

/// A named text that diagnostics point into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// What is shown as its place: a path as the user gave it, or `command line`.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// The last border between two characters at or before `offset`.
    fn border(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        (0..=offset).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0)
    }
}

/// A range of bytes in a [`Source`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The text.
    pub source: Arc<Source>,
    /// The bytes; an empty range marks the point between two.
    pub span: Range<usize>,
}

/// Where a diagnostic points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Nowhere in a file.
    Nowhere,
    /// At a file as a whole, by the name to show.
    File(String),
    /// At a piece of text.
    Text(Place),
}

/// Whether the run can go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One mistake or trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Whether the run can go on.
    pub severity: Severity,
    /// The exit status of a run that fails for this.
    pub status: Status,
    /// What is wrong, with its data; lower case, no full stop.
    pub message: String,
    /// Where.
    pub location: Location,
    /// Other places that belong to it, each with a few words.
    pub related: Vec<(Place, String)>,
    /// What the user can do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error that points nowhere yet.
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

    /// The same, pointing at `location`.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = location;
        self
    }

    /// The same, with what the user can do, if anything.
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

    /// The span as it can be shown: in the text, on borders of characters, and of the first line only, since a caret
    /// under a table of many lines says no more than one under its head.
    fn shown(&self) -> Range<usize> {
        let start = self.source.border(self.span.start);
        let end = self.source.border(self.span.end).max(start);
        let line = self.source.text.get(start..end).and_then(|piece| piece.find('\n'));
        start..line.map_or(end, |length| start.saturating_add(length))
    }
}

/// Some diagnostics, in the order in which they are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// All of them as text without colours, a blank line between two, ending in a newline.
    #[must_use]
    pub fn to_plain(&self) -> String {
        self.render(&Renderer::plain())
    }

    /// The same with ANSI colours. Print it through `anstream`, which takes them out again where the output is no
    /// terminal or `NO_COLOR` is set.
    #[must_use]
    pub fn to_styled(&self) -> String {
        self.render(&Renderer::styled())
    }

    /// Shows all of them on standard error.
    pub fn eprint(&self) {
        stderr::print(format_args!("{}", self.to_styled()));
    }

    /// The exit status of a run that fails for these: that of the first error.
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
