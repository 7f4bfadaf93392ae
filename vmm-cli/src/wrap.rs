//! Wraps text into lines.

use textwrap::{Options, WordSplitter, WrapAlgorithm};

/// Width of text for people, in characters.
pub(crate) const TEXT_WIDTH: usize = 100;

/// Breaks a text between words into lines of at most `width` characters. Longer words have a line of their own. An empty
/// text has no lines.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    if text.is_empty() {
        return Vec::new();
    }
    let options = Options::new(width)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::wrap(text, options).into_iter().map(Into::into).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrap("not-at-hyphens", 4), ["not-at-hyphens"]);
        assert_eq!(wrap("", 3), Vec::<String>::new());
    }

    #[test]
    fn a_paragraph_is_broken_at_spaces_and_loses_nothing() {
        let text = "word ".repeat(100);
        let lines = wrap(text.trim_end(), 100);
        assert!(lines.len() > 4 && lines.iter().all(|line| line.len() <= 100));
        assert_eq!(lines.join(" "), text.trim_end());
    }
}
