//! `[test]`: test cases of a file for `vmm-cli test`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::{Count, RegisterName, RegisterValues};

/// Test cases that `vmm-cli test` runs. Other commands ignore them.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Test {
    /// Symbol or address up to which the guest runs once. Every case continues from a copy of the machine at that point.
    pub snapshot_at: Option<Spanned<String>>,
    /// Test cases, one for each `[[test.case]]`.
    pub case: Option<Spanned<Vec<Spanned<TestCaseTable>>>>,
    /// Number of cases that differ in the register `index` only, which holds the number of the case, from 0 on.
    pub count: Option<Spanned<Count>>,
    /// Register that holds the number of the case.
    #[schemars(extend("default" = "rdi"))]
    pub index: Option<Spanned<RegisterName>>,
}

/// Test case: a name, and changes to the machine before it continues.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct TestCaseTable {
    /// Name of the case, different from those of the others.
    #[schemars(required)]
    pub name: Option<Spanned<String>>,
    /// Values of registers that are set before the case runs.
    pub registers: Option<Spanned<RegisterValues>>,
    /// Symbol or address to continue at, with the stack unchanged.
    pub jump: Option<Spanned<String>>,
    /// Console input, in place of the input file next to the configuration.
    pub input: Option<Spanned<String>>,
}
