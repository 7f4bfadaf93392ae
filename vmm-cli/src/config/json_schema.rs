//! JSON schema of the TOML file, generated from the types of the format, for completion and checks in editors.
//!
//! It covers the checks of deserialization, not those of `lower`.

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{Schema, SchemaGenerator};
use serde_json::Value;

use super::schema::Document;

/// Returns the schema as JSON text (draft 2020-12) with a newline at the end.
#[must_use]
pub fn text() -> String {
    let schema = value();
    // A schema is plain data and always serializes: the fallback is never used.
    serde_json::to_string_pretty(&schema).unwrap_or_else(|_| schema.to_string()) + "\n"
}

fn value() -> Value {
    let settings = SchemaSettings::draft2020_12().with_transform(NoNull);
    SchemaGenerator::new(settings).into_root_schema_for::<Document>().to_value()
}

/// Removes null, which TOML does not have, from the schemas of optional keys.
#[derive(Debug, Clone)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|name| name != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                object.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
            if let [Value::Object(only)] = choices.as_slice() {
                let only = only.clone();
                object.remove("anyOf");
                for (key, value) in only {
                    object.entry(key).or_insert(value);
                }
            }
        }
    }
}
