//! Translation of serde's errors into messages of this front-end.
//!
//! Debt: a serde error is only a text, so this module parses English. The forms come from `serde::de::Error` (unknown field,
//! unknown variant, invalid type), and the tests below fail if they change. Errors of [`values`](super::values) carry their
//! help on a second line. The expected names come from the types of the format, so no list is kept twice.

use super::values::nearest;

/// Message of an error, with help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SerdeProblem {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Key that an unknown key was probably meant to be.
    pub(crate) meant_key: Option<String>,
}

impl SerdeProblem {
    /// Parses the text of a serde error.
    pub(crate) fn new(text: &str) -> Self {
        if let Some((name, known)) = unknown("unknown field", text) {
            let near = nearest(&name, known.iter().copied());
            let help = near.map_or_else(|| list("known keys here", &known), |near| Some(did_you_mean(near)));
            return Self {
                message: format!("unknown key `{name}`"),
                help,
                meant_key: near.map(str::to_owned),
            };
        }
        if let Some((name, known)) = unknown("unknown variant", text) {
            let near = nearest(&name, known.iter().copied());
            let help = near.map_or_else(|| list("possible values", &known), |near| Some(did_you_mean(near)));
            return Self { message: format!("unknown value `{name}`"), help, meant_key: None };
        }
        if let Some((found, expected)) =
            text.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
        {
            return Self::plain(format!("expected {}, found {}", in_toml(expected), in_toml(found)));
        }
        if text.starts_with("wanted ") {
            return Self::plain("expected a string".to_owned());
        }
        match text.split_once('\n') {
            Some((message, help)) => Self { help: Some(help.to_owned()), ..Self::plain(message.to_owned()) },
            None => Self::plain(text.to_owned()),
        }
    }

    fn plain(message: String) -> Self {
        Self { message, help: None, meant_key: None }
    }
}

/// Returns the name in "unknown field `name`, expected one of `a`, `b`", and the names that were expected.
fn unknown<'t>(what: &str, text: &'t str) -> Option<(String, Vec<&'t str>)> {
    let rest = text.strip_prefix(what)?.strip_prefix(" `")?;
    // The name comes from the user and may contain anything. The list after it does not.
    let (name, list) = rest.rsplit_once("`, expected ").or_else(|| rest.rsplit_once("`, there are no "))?;
    let words = list.split('`').skip(1).step_by(2).collect();
    Some((name.escape_debug().to_string(), words))
}

fn did_you_mean(word: &str) -> String {
    format!("did you mean `{word}`?")
}

fn list(what: &str, words: &[&str]) -> Option<String> {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    if quoted.is_empty() { None } else { Some(format!("{what}: {}", quoted.join(", "))) }
}

/// Returns TOML's name for a type that serde names.
fn in_toml(phrase: &str) -> &str {
    match phrase {
        "map" => "a table",
        "sequence" => "an array",
        "a sequence" => "an array",
        "a map" => "a table",
        _ => phrase,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the errors matter")]
    struct Sample {
        size: Option<u32>,
        words: Option<Vec<String>>,
        word: Option<Word>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        Ones,
        Stop,
    }

    fn complaint(text: &str) -> (String, Option<String>) {
        let complaint = SerdeProblem::new(toml::from_str::<Sample>(text).unwrap_err().message());
        (complaint.message, complaint.help)
    }

    #[test]
    fn serde_texts_are_understood() {
        let help = |text: &str| Some(text.to_owned());
        assert_eq!(complaint("sice = 1"), ("unknown key `sice`".to_owned(), help("did you mean `size`?")));
        assert_eq!(
            complaint("colour = 1"),
            ("unknown key `colour`".to_owned(), help("known keys here: `size`, `words`, `word`"))
        );
        assert_eq!(
            complaint("word = 'stp'"),
            ("unknown value `stp`".to_owned(), help("did you mean `stop`?"))
        );
        assert_eq!(
            complaint("word = 'never'"),
            ("unknown value `never`".to_owned(), help("possible values: `ones`, `stop`"))
        );
        assert_eq!(complaint("words = 3"), ("expected an array, found integer `3`".to_owned(), None));
        assert_eq!(complaint("size = []"), ("expected u32, found an array".to_owned(), None));
        assert_eq!(complaint("size = {}"), ("expected u32, found a table".to_owned(), None));
        assert_eq!(complaint("word = 3"), ("expected a string".to_owned(), None));
    }

    #[test]
    fn names_with_anything_in_them() {
        assert_eq!(complaint("\"a`, expected `b\\n\" = 1").0, "unknown key `a`, expected `b\\n`");
        assert_eq!(complaint("\"\" = 1").0, "unknown key ``");
    }
}
