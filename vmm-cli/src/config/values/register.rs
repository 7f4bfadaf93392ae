//! Register names as keys: `rax` to `r15`, `rip`, `rflags`, and their 32-bit names.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use vmm_core::spec::Register;

use super::Word;
use crate::config::schema::Spanned;

/// Registers with their 64-bit names and, if they have one, their 32-bit aliases.
const NAMES: [(Register, &str, Option<&str>); 18] = [
    (Register::Rax, "rax", Some("eax")),
    (Register::Rbx, "rbx", Some("ebx")),
    (Register::Rcx, "rcx", Some("ecx")),
    (Register::Rdx, "rdx", Some("edx")),
    (Register::Rsi, "rsi", Some("esi")),
    (Register::Rdi, "rdi", Some("edi")),
    (Register::Rbp, "rbp", Some("ebp")),
    (Register::Rsp, "rsp", Some("esp")),
    (Register::R8, "r8", None),
    (Register::R9, "r9", None),
    (Register::R10, "r10", None),
    (Register::R11, "r11", None),
    (Register::R12, "r12", None),
    (Register::R13, "r13", None),
    (Register::R14, "r14", None),
    (Register::R15, "r15", None),
    (Register::Rip, "rip", Some("eip")),
    (Register::Rflags, "rflags", Some("eflags")),
];

/// Names that errors suggest; the aliases are accepted, but not suggested.
const LONG_NAMES: [&str; 18] = [
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15", "rip", "rflags",
];

/// Register, and its name in the configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegisterName {
    /// Register that the name is for.
    pub register: Register,
    /// Name of the register in the file: the 64-bit name or the alias.
    pub name: &'static str,
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = RegisterName;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a register")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<RegisterName, E> {
        NAMES
            .iter()
            .flat_map(|(register, name, alias)| {
                [Some((register, *name)), alias.map(|alias| (register, alias))]
            })
            .flatten()
            .find(|(_, name)| *name == text)
            .map(|(register, name)| RegisterName { register: *register, name })
            .ok_or_else(|| E::unknown_field(text, &LONG_NAMES))
    }
}

impl<'de> Deserialize<'de> for RegisterName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

impl JsonSchema for RegisterName {
    fn schema_name() -> Cow<'static, str> {
        "RegisterName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names: Vec<_> =
            NAMES.iter().flat_map(|(_, name, alias)| [Some(*name), *alias]).flatten().collect();
        json_schema!({ "type": "string", "enum": names })
    }
}

/// Registers and their values, sorted by the name in the file.
#[derive(Debug, Clone, Default)]
pub struct RegisterValues(pub Vec<(Spanned<RegisterName>, Spanned<Word>)>);

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = RegisterValues;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of registers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RegisterValues, A::Error> {
        let mut values = Vec::new();
        while let Some(entry) = map.next_entry()? {
            values.push(entry);
        }
        Ok(RegisterValues(values))
    }
}

impl<'de> Deserialize<'de> for RegisterValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ValuesVisitor)
    }
}

impl JsonSchema for RegisterValues {
    fn schema_name() -> Cow<'static, str> {
        "RegisterValues".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let word = generator.subschema_for::<Word>();
        let properties: serde_json::Map<String, serde_json::Value> = NAMES
            .iter()
            .flat_map(|(_, name, alias)| [Some(*name), *alias])
            .flatten()
            .map(|name| (name.to_owned(), word.clone().into()))
            .collect();
        json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advertised_names_are_the_long_ones() {
        assert_eq!(NAMES.map(|(_, name, _)| name), LONG_NAMES);
    }

    #[test]
    fn both_names_mean_the_same_register() {
        let table = toml::from_str::<RegisterValues>("eax = 1\nrflags = \"0x2\"").unwrap();
        let read: Vec<_> =
            table.0.iter().map(|(name, word)| (name.value.register, name.value.name, word.value.0)).collect();
        assert_eq!(read, [(Register::Rax, "eax", 1), (Register::Rflags, "rflags", 2)]);
        assert!(toml::from_str::<RegisterValues>("ah = 1").is_err());
    }
}
