//! The texts of one configuration, laid end to end: the TOML file first, then each command line option.
//!
//! A value then has one span, whichever text it came from, and nothing behind the parser needs to know about
//! options: an error in `--set memory.size=2MB` points at the option because its span lies there.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Place, Source};

/// A range of bytes in the texts laid end to end.
pub type Span = Range<usize>;

/// The texts. The first is the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    texts: Vec<Text>,
}

/// One of them.
#[derive(Debug, Clone)]
struct Text {
    /// The offset that its spans start at.
    start: usize,
    source: Arc<Source>,
    /// Nobody has written or read it: it has a name to show and no places.
    unseen: bool,
}

impl Sources {
    /// Adds a text and returns the offset that its spans start at.
    pub(crate) fn add(&mut self, name: &str, text: &str) -> usize {
        self.push(name, text, false)
    }

    /// Adds a text that was made and not written by anybody.
    pub(crate) fn add_unseen(&mut self, name: &str, text: &str) -> usize {
        self.push(name, text, true)
    }

    fn push(&mut self, name: &str, text: &str, unseen: bool) -> usize {
        // One byte lies between two texts, so that a span at the very end of one belongs to that one.
        let start = self.texts.last().map_or(0, |Text { start, source, .. }| {
            start.saturating_add(source.text.len()).saturating_add(1)
        });
        let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
        self.texts.push(Text { start, source, unseen });
        start
    }

    /// The text that `span` lies in, and where in it; `None` where there is none to show.
    pub(crate) fn place(&self, span: &Span) -> Option<Place> {
        let Text { start, source, .. } =
            self.texts.iter().rev().find(|text| text.start <= span.start).filter(|text| !text.unseen)?;
        let local = |offset: usize| offset.saturating_sub(*start).min(source.text.len());
        Some(Place { source: Arc::clone(source), span: local(span.start)..local(span.end) })
    }

    /// The name of the file.
    pub(crate) fn file_name(&self) -> &str {
        self.texts.first().map_or("", |text| &text.source.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_finds_its_text() {
        let mut sources = Sources::default();
        assert_eq!(sources.add("a.toml", "mode"), 0);
        assert_eq!(sources.add("command line", "--mode real"), 5);
        assert_eq!(sources.add("command line", "--timeout 1s"), 17);
        let shown = |span| sources.place(&span).map(|place| (place.source.name.clone(), place.span));
        assert_eq!(shown(0..4), Some(("a.toml".to_owned(), 0..4)));
        assert_eq!(shown(4..4), Some(("a.toml".to_owned(), 4..4)));
        assert_eq!(shown(12..16), Some(("command line".to_owned(), 7..11)));
        assert_eq!(shown(17..18), Some(("command line".to_owned(), 0..1)));
        assert_eq!(sources.file_name(), "a.toml");
    }
}
