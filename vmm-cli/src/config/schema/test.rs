//! `[test]`: what `vmm-cli test` makes of the file beyond its `[expect]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::{Count, RegisterName, RegisterValues};

/// How `vmm-cli test` runs the file. Other commands do without.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Test {
    /// The guest runs once up to this symbol or address; every case goes on from a copy of the machine as it is there.
    pub snapshot_at: Option<Spanned<String>>,
    /// The cases: [[test.case]].
    pub case: Option<Spanned<Vec<Spanned<TestCase>>>>,
    /// Instead of single cases so many, which differ in the register `index`: it holds the number of the case, from 0 on.
    pub count: Option<Spanned<Count>>,
    /// The register that holds the number of the case.
    #[schemars(extend("default" = "rdi"))]
    pub index: Option<Spanned<RegisterName>>,
}

/// One case: what it changes before it goes on.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct TestCase {
    /// Its name, different from those of the others.
    #[schemars(required)]
    pub name: Option<Spanned<String>>,
    /// Registers that are set.
    pub registers: Option<Spanned<RegisterValues>>,
    /// A symbol or address to go on at, with the stack as it is.
    pub jump: Option<Spanned<String>>,
    /// What arrives on the console, in place of the file beside the configuration.
    pub input: Option<Spanned<String>>,
}
