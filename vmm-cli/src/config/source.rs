//! Texts of one configuration, concatenated: the TOML file first, then each command line option.
//!
//! A value has one span, whichever text it came from, so later steps need not know about options: an error in
//! `--set memory.size=2MB` points to the option because its span lies there.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Place, Source};

/// Byte range in the concatenated texts.
pub type Span = Range<usize>;

/// Concatenated texts. The first is the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    texts: Vec<Text>,
}

/// Text of a file or an option.
#[derive(Debug, Clone)]
struct Text {
    /// Offset of its first byte in the concatenated texts.
    start: usize,
    source: Arc<Source>,
    /// True if the text was generated: errors show its name, but no line.
    generated: bool,
    /// True if the text is part of the configuration: the file, or a value of its `[matrix]`.
    is_configuration: bool,
}

impl Sources {
    /// Adds a text and returns the offset of its first byte.
    pub(crate) fn add(&mut self, name: &str, text: &str) -> usize {
        self.push(name, text, false, true)
    }

    /// Adds the text of a command line option and returns the offset of its first byte.
    pub(crate) fn add_option(&mut self, name: &str, text: &str) -> usize {
        self.push(name, text, false, false)
    }

    /// Adds a generated text, which errors do not show, and returns the offset of its first byte.
    pub(crate) fn add_generated(&mut self, name: &str, text: &str) -> usize {
        self.push(name, text, true, false)
    }

    fn push(&mut self, name: &str, text: &str, generated: bool, is_configuration: bool) -> usize {
        // A gap of one byte between two texts keeps an empty span at the end of the first out of the second.
        let start = self.texts.last().map_or(0, |Text { start, source, .. }| {
            start.saturating_add(source.text.len()).saturating_add(1)
        });
        let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
        self.texts.push(Text { start, source, generated, is_configuration });
        start
    }

    /// Returns the text that contains `span`, and the position in it; `None` if the text was generated.
    pub(crate) fn place(&self, span: &Span) -> Option<Place> {
        let Text { start, source, .. } = self.text(span).filter(|text| !text.generated)?;
        let local = |offset: usize| offset.saturating_sub(*start).min(source.text.len());
        Some(Place { source: Arc::clone(source), span: local(span.start)..local(span.end) })
    }

    /// Returns true if `span` is in the file or in a value of its `[matrix]`, and not in an option of the command line or in
    /// generated text.
    pub(crate) fn is_configuration(&self, span: &Span) -> bool {
        self.text(span).is_none_or(|text| text.is_configuration)
    }

    fn text(&self, span: &Span) -> Option<&Text> {
        self.texts.iter().rev().find(|text| text.start <= span.start)
    }

    /// Returns the name of the file.
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
        assert_eq!(sources.add_option("command line", "--set a=1"), 30);
        assert_eq!(sources.add_generated("", "guest.file"), 40);
        let own = [0, 4, 12, 17, 30, 38, 40, 100].map(|start| sources.is_configuration(&(start..start + 1)));
        assert_eq!(own, [true, true, true, true, false, false, false, false]);
    }
}
