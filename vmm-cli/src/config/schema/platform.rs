//! `[devices.NAME]` of a PC's devices: each can be switched on or off. Addresses are fixed.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::OneOrMany;

/// Table of a device that has no settings but `enabled`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Switch {
    /// True if the machine has the device.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
}

/// Table of QEMU's configuration device (fw_cfg).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct FwCfg {
    /// True if the machine has the device.
    #[schemars(extend("default" = true))]
    pub enabled: Option<Spanned<bool>>,
    /// Files that the guest finds by name.
    pub file: Option<Spanned<OneOrMany<FwCfgFile>>>,
}

/// File of QEMU's configuration device: exactly one of `path` and `text`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct FwCfgFile {
    /// Name by which the guest finds the file, such as "opt/com.example/key": 1 to 55 bytes of ASCII.
    #[schemars(required)]
    pub name: Option<Spanned<String>>,
    /// Host file with the contents. The path is relative to the TOML file.
    pub path: Option<Spanned<String>>,
    /// Contents of the file as text.
    pub text: Option<Spanned<String>>,
}
