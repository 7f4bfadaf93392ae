//! Wraps text into lines.

use textwrap::{Options, WordSplitter, WrapAlgorithm};

/// Width of text for people, in characters.
pub(crate) const TEXT_WIDTH: usize = 100;

/// Breaks a text between words into lines of at most `width` characters. Longer words have a line of their own.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let options = Options::new(width)
        .break_words(false)
        .word_splitter(WordSplitter::NoHyphenation)
        .wrap_algorithm(WrapAlgorithm::FirstFit);
    textwrap::wrap(text, options).into_iter().map(Into::into).collect()
}
