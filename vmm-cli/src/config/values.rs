//! Values that TOML has no type for: sizes, addresses, ports, durations and entry points, a file for each.
//!
//! A value is written as an integer, as a string, or as either, as its `Value` implementation and its JSON schema specify.
//! A value that does not fit is refused, with a suggestion, and never corrected.

mod address;
mod duration;
mod entry;
mod matrix;
mod number;
mod one_or_many;
mod overlay;
mod register;
mod size;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, Deserializer, Visitor};

pub use address::{Address, Port, Word};
pub use duration::Time;
pub use entry::EntryChoice;
pub use matrix::Matrix;
pub use number::{Count, RingLevel};
pub use one_or_many::OneOrMany;
pub use overlay::Overlay;
pub use register::{RegisterName, RegisterValues};
pub use size::{Size, show_size};

/// Text that is not a value of the type that its key needs, with a message and help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Message that says why the text is not such a value.
    pub message: String,
    /// Suggestion for the value; `None` if it cannot be guessed.
    pub help: Option<String>,
}

impl ParseError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn did_you_mean(self, word: impl fmt::Display) -> Self {
        self.help(format!("did you mean `{word}`?"))
    }
}

impl std::error::Error for ParseError {}

/// Formats message and help, separated by a line break: a serde error carries only a text, which
/// `serde_error.rs` splits again.
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n{help}"),
            None => Ok(()),
        }
    }
}

/// Type that is read from a TOML integer, a TOML string, or either.
pub(crate) trait Value: Sized {
    /// Description of accepted values, for "expected ..., found ...".
    const EXPECTED: &'static str;

    /// Parses an integer that is not negative.
    fn from_integer(value: u64) -> Result<Self, ParseError> {
        Err(ParseError::new(format!("expected {}, found integer `{value}`", Self::EXPECTED)))
    }

    /// Returns the error for a negative integer.
    fn from_negative(value: i64) -> ParseError {
        ParseError::new(format!("expected {}, found integer `{value}`", Self::EXPECTED))
    }

    /// Parses the contents of a string.
    fn from_text(text: &str) -> Result<Self, ParseError> {
        Err(ParseError::new(format!("expected {}, found string {text:?}", Self::EXPECTED)))
    }
}

struct ValueVisitor<T>(PhantomData<T>);

impl<T: Value> Visitor<'_> for ValueVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        match u64::try_from(value) {
            Ok(value) => T::from_integer(value).map_err(E::custom),
            Err(_) => Err(E::custom(T::from_negative(value))),
        }
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<T, E> {
        T::from_integer(value).map_err(E::custom)
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<T, E> {
        Err(E::custom(ParseError::new(format!("`{value}` does not fit in 64 bits"))))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<T, E> {
        Err(E::custom(ParseError::new(format!("`{value}` does not fit in 64 bits"))))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        T::from_text(text).map_err(E::custom)
    }
}

/// Implements `Deserialize::deserialize` for every [`Value`].
pub(crate) fn deserialize_value<'de, T: Value, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(ValueVisitor(PhantomData))
}

/// Implements `Deserialize` and `JsonSchema` for a [`Value`], with the given schema.
macro_rules! value_in_toml {
    ($type:ident, $schema:tt) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::values::deserialize_value(deserializer)
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}
pub(crate) use value_in_toml;

/// Returns the element of `words` that `word` was probably meant to be: at most a third of its letters differ.
pub(crate) fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let word = word.to_lowercase();
    let allowed = word.chars().count().div_ceil(3).clamp(1, 4);
    words
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word() {
        let words = ["size", "address", "read-only", "huge-pages"];
        assert_eq!(nearest("sice", words), Some("size"));
        assert_eq!(nearest("adress", words), Some("address"));
        assert_eq!(nearest("read_only", words), Some("read-only"));
        assert_eq!(nearest("SIZE", words), Some("size"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("", words), None);
    }
}
