//! Problems of a configuration, as spans and messages. They become [`Diagnostic`]s when all are known.

use super::source::{Sources, Span};
use crate::diagnostic::{Diagnostic, Diagnostics, Location};
use crate::status::Status;

/// Maximum number of problems that are reported: each costs time to find and to show.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// Problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConfigProblem {
    /// Span of the problem; `None` for the whole file.
    pub(crate) span: Option<Span>,
    /// Message.
    pub(crate) message: String,
    /// Other spans that belong to the problem, with labels.
    pub(crate) related: Vec<(Span, String)>,
    /// Advice for the user.
    pub(crate) help: Option<String>,
}

impl ConfigProblem {
    pub(crate) fn new(span: &Span, message: impl Into<String>) -> Self {
        Self { span: Some(span.clone()), ..Self::in_file(message) }
    }

    pub(crate) fn in_file(message: impl Into<String>) -> Self {
        Self { span: None, message: message.into(), related: Vec::new(), help: None }
    }

    pub(crate) fn related(mut self, span: &Span, label: impl Into<String>) -> Self {
        self.related.push((span.clone(), label.into()));
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    fn into_diagnostic(self, sources: &Sources) -> Diagnostic {
        let place = self.span.and_then(|span| sources.place(&span));
        let location = place.map_or_else(|| Location::File(sources.file_name().to_owned()), Location::Text);
        let related = self.related.into_iter();
        Diagnostic {
            related: related.filter_map(|(span, label)| Some((sources.place(&span)?, label))).collect(),
            help: self.help,
            ..Diagnostic::error(Status::Configuration, self.message).at(location)
        }
    }
}

/// Problems found so far. A problem does not stop the search for others.
#[derive(Debug, Default)]
pub(crate) struct ConfigProblems {
    list: Vec<ConfigProblem>,
    /// Keys that could not be read and have been reported, so they are not missing.
    unread: Vec<String>,
}

impl ConfigProblems {
    pub(crate) fn push(&mut self, problem: ConfigProblem) {
        self.list.push(problem);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn count(&self) -> usize {
        self.list.len()
    }

    /// Records that the entry at `path`, such as `memory.size`, has been reported.
    pub(crate) fn mark_unread(&mut self, path: String) {
        self.unread.push(path);
    }

    /// Returns true if the entry at `path`, or one that contains it, has been reported.
    pub(crate) fn is_unread(&self, path: &str) -> bool {
        self.unread.iter().any(|unread| is_inside(path, unread))
    }

    /// Returns true if the entry at `path`, or one inside it, has been reported.
    pub(crate) fn has_unread_inside(&self, path: &str) -> bool {
        self.unread.iter().any(|unread| is_inside(unread, path))
    }

    /// Returns the problems as diagnostics, in the order of the texts: the file from the top, then the options.
    pub(crate) fn into_diagnostics(mut self, sources: &Sources) -> Diagnostics {
        self.list.sort_by_key(|problem| problem.span.as_ref().map(|span| (span.start, span.end)));
        self.list.truncate(MAX_PROBLEMS);
        Diagnostics(self.list.into_iter().map(|problem| problem.into_diagnostic(sources)).collect())
    }
}

/// Returns true if the entry at `path` is the one at `outer` or inside it.
fn is_inside(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
