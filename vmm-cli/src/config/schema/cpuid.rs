//! `cpuid = "host"`, or `[cpuid]` with features to hide and to set. The first token decides, as with
//! [`OneOrMany`](crate::config::values::OneOrMany).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use vmm_core::spec::CpuidPolicy;

use super::Spanned;

/// CPUID that the guest sees: a policy by name, or changes to the host's CPUID.
#[derive(Debug, Clone)]
pub enum CpuidChoice {
    /// CPUID policy by its name, such as "host".
    Word(CpuidPolicy),
    /// CPUID of the host, with features hidden or set.
    Table(CpuidTable),
}

/// CPUID of the host, with features hidden or set, by their names in /proc/cpuinfo.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct CpuidTable {
    /// Features to hide from the guest, such as "cx16".
    pub hide: Option<Vec<Spanned<String>>>,
    /// Features to set, if the host has the leaf. KVM may ignore them.
    pub set: Option<Vec<Spanned<String>>>,
}

struct ChoiceVisitor;

impl<'de> Visitor<'de> for ChoiceVisitor {
    type Value = CpuidChoice;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"none\", \"host\" or a table")
    }

    fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Self::Value, E> {
        CpuidPolicy::deserialize(StrDeserializer::<E>::new(word)).map(CpuidChoice::Word)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        CpuidTable::deserialize(MapAccessDeserializer::new(map)).map(CpuidChoice::Table)
    }
}

impl<'de> Deserialize<'de> for CpuidChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ChoiceVisitor)
    }
}

impl JsonSchema for CpuidChoice {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "CpuidChoice".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<CpuidPolicy>();
        let table = generator.subschema_for::<CpuidTable>();
        json_schema!({ "anyOf": [word, table] })
    }
}
