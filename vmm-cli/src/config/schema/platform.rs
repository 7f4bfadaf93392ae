//! `[devices.NAME]` of a PC's board: each is there or not; its place is that of every PC.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::OneOrMany;

/// A device without any other setting.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Switch {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
}

/// QEMU's configuration device.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct FwCfg {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
    /// Files that the guest finds by name.
    pub file: Option<Spanned<OneOrMany<FwCfgFile>>>,
}

/// A file of the configuration device: exactly one of `path` and `text`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct FwCfgFile {
    /// The name that the guest looks for, such as "opt/com.example/key": 1 to 55 bytes of ASCII.
    #[schemars(required)]
    pub name: Option<Spanned<String>>,
    /// The file whose bytes it has. The path is relative to the TOML file.
    pub path: Option<Spanned<String>>,
    /// Its bytes, as text.
    pub text: Option<Spanned<String>>,
}
