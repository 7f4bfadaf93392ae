//! Text in lines, for people.

/// Breaks a text into lines of at most `width` characters, between words.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrapped("", 3), Vec::<String>::new());
    }

    #[test]
    fn a_paragraph_is_broken_at_spaces_and_loses_nothing() {
        let text = "word ".repeat(100);
        let lines = wrapped(text.trim_end(), 100);
        assert!(lines.len() > 4 && lines.iter().all(|line| line.len() <= 100));
        assert_eq!(lines.join(" "), text.trim_end());
    }
}
