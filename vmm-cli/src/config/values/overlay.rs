//! Overlay of a disk: `true` for an unnamed file, or the path of a file.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Destination of writes to a disk whose image is not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    /// Unnamed file that is removed with the machine, if true.
    Temporary(bool),
    /// New file at a path, which keeps the writes after the run.
    File(String),
}

struct OverlayVisitor;

impl Visitor<'_> for OverlayVisitor {
    type Value = Overlay;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true or the path of a file")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Overlay, E> {
        Ok(Overlay::Temporary(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Overlay, E> {
        Ok(Overlay::File(value.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Overlay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OverlayVisitor)
    }
}

impl JsonSchema for Overlay {
    fn schema_name() -> Cow<'static, str> {
        "Overlay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "true, or the path of a file that does not exist yet.",
            "anyOf": [{ "type": "boolean" }, { "type": "string" }]
        })
    }
}
