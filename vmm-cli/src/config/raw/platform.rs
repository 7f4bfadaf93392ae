//! `[devices.NAME]` of a PC's board: each is there or not; its place is that of every PC.

use schemars::JsonSchema;
use serde::Deserialize;

use super::At;
use crate::config::values::OneOrMany;

/// A device without any other setting.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Switch {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<At<bool>>,
}

/// QEMU's configuration device.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct FwCfg {
    /// Whether the machine has it.
    #[schemars(extend("default" = true))]
    pub enabled: Option<At<bool>>,
    /// Files that the guest finds by name.
    pub file: Option<At<OneOrMany<FwCfgFile>>>,
}

/// A file of the configuration device: exactly one of `path` and `text`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct FwCfgFile {
    /// The name that the guest looks for, such as "opt/com.example/key": 1 to 55 bytes of ASCII.
    #[schemars(required)]
    pub name: Option<At<String>>,
    /// The file whose bytes it has. The path is relative to the TOML file.
    pub path: Option<At<String>>,
    /// Its bytes, as text.
    pub text: Option<At<String>>,
}
