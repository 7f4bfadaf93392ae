//! `[matrix]`: keys of the configuration with several values, for a test that runs with all combinations.
//!
//! A key is written as for `--set`, with dots. TOML reads an unquoted one as nested tables, which is equivalent here.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Keys that take several values, in alphabetical order, each with its values in the order of the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Matrix(pub Vec<(String, Vec<toml::Value>)>);

/// Node of the table: the values of a key, or a table of further names.
enum Entry {
    Values(Vec<toml::Value>),
    Names(Matrix),
}

struct MatrixVisitor;

impl<'de> Visitor<'de> for MatrixVisitor {
    type Value = Matrix;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of arrays")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Matrix, A::Error> {
        let mut axes = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            match map.next_value()? {
                Entry::Values(values) => axes.push((name, values)),
                Entry::Names(Matrix(inner)) => {
                    axes.extend(inner.into_iter().map(|(rest, values)| (format!("{name}.{rest}"), values)));
                }
            }
        }
        axes.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(Matrix(axes))
    }
}

struct EntryVisitor;

impl<'de> Visitor<'de> for EntryVisitor {
    type Value = Entry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of values")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Entry, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = items.next_element()? {
            values.push(value);
        }
        if values.is_empty() {
            return Err(de::Error::custom(
                "no value is given\na key without values leaves no combination to run",
            ));
        }
        Ok(Entry::Values(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Entry, A::Error> {
        MatrixVisitor.visit_map(map).map(Entry::Names)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EntryVisitor)
    }
}

impl<'de> Deserialize<'de> for Matrix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MatrixVisitor)
    }
}

impl JsonSchema for Matrix {
    fn schema_name() -> Cow<'static, str> {
        "Matrix".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let values = json_schema!({ "type": "array", "minItems": 1 });
        let names = generator.subschema_for::<Self>();
        json_schema!({ "type": "object", "additionalProperties": { "anyOf": [values, names] } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dotted_key_is_the_same_with_and_without_quotes() {
        let quoted =
            toml::from_str::<Matrix>("mode = [\"long\"]\n\"memory.size\" = [\"2MiB\", 4096]").unwrap();
        let plain = toml::from_str::<Matrix>("memory.size = [\"2MiB\", 4096]\nmode = [\"long\"]").unwrap();
        assert_eq!(quoted, plain);
        let keys: Vec<_> = quoted.0.iter().map(|(key, values)| (key.as_str(), values.len())).collect();
        assert_eq!(keys, [("memory.size", 2), ("mode", 1)]);
    }

    #[test]
    fn what_is_no_array_or_an_empty_one_is_refused() {
        for (text, message) in
            [("mode = \"long\"", "expected an array of values"), ("mode = []", "no value is given")]
        {
            let error = toml::from_str::<Matrix>(text).unwrap_err();
            assert!(error.message().contains(message), "{error}");
        }
    }
}
