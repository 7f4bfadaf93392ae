//! A table or an array of tables: `[memory]` and `[[memory]]`.
//!
//! An untagged enum of serde would try one variant after the other and lose the spans and the errors of the inner one. Here
//! the first token decides.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::config::schema::Spanned;
use crate::config::source::Span;

/// Table or array of tables: the contents of `[name]`, or of several `[[name]]`.
#[derive(Debug, Clone)]
pub enum OneOrMany<T> {
    /// Single table, `[name]`.
    One(T),
    /// Array of tables, `[[name]]`, each with its span.
    Many(Vec<Spanned<T>>),
}

impl<T> Spanned<OneOrMany<T>> {
    /// Returns all tables in order, each with its span and its path, such as `memory` or `memory.1`; `key` is their key.
    pub(crate) fn tables(&self, key: &str) -> Vec<(&T, Span, String)> {
        match &self.value {
            OneOrMany::One(table) => vec![(table, self.span.clone(), key.to_owned())],
            OneOrMany::Many(tables) => {
                let numbered = tables.iter().enumerate();
                numbered.map(|(index, at)| (&at.value, at.span.clone(), format!("{key}.{index}"))).collect()
            }
        }
    }

    /// Returns true if it is a single table, whose path has no number.
    pub(crate) fn is_single(&self) -> bool {
        matches!(self.value, OneOrMany::One(_))
    }
}

struct TablesVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for TablesVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table or an array of tables")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(OneOrMany::One)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tables: A) -> Result<Self::Value, A::Error> {
        let mut many = Vec::new();
        while let Some(table) = tables.next_element()? {
            many.push(table);
        }
        Ok(OneOrMany::Many(many))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TablesVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [table, { "type": "array", "minItems": 1, "items": table }] })
    }
}
