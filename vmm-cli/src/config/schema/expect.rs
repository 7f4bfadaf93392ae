//! `[expect]`: expectations for the end of the run.

use schemars::JsonSchema;
use serde::Deserialize;
use vmm_core::machine::end::EndKind;

use super::Spanned;
use crate::config::values::{Address, Count, OneOrMany, RegisterValues, Word};

/// Expectations for the end of the run; every key that is given is checked.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct ExpectTable {
    /// Kind of end that the run must have.
    pub end: Option<Spanned<EndKind>>,
    /// Text that the whole output of the guest must be.
    pub output: Option<Spanned<String>>,
    /// Texts that the output must contain, in any order.
    pub output_contains: Option<Spanned<Vec<Spanned<String>>>>,
    /// Regular expression that must match somewhere in the output. Classes such as \w are ASCII.
    pub output_regex: Option<Spanned<String>>,
    /// Texts that the first paragraph of the autopsy must contain, for guests that should crash or hang.
    pub cause: Option<Spanned<Vec<Spanned<String>>>>,
    /// Code that the guest must exit with.
    pub exit_code: Option<Spanned<Count>>,
    /// Number of exits to user space that the run must have.
    pub exits: Option<Spanned<Count>>,
    /// Number of exits to user space that the run must not exceed.
    pub max_exits: Option<Spanned<Count>>,
    /// Values that registers must have at the end of the run.
    pub registers: Option<Spanned<RegisterValues>>,
    /// Contents that guest memory must have at the end of the run.
    pub memory: Option<Spanned<OneOrMany<ExpectMemory>>>,
}

/// Contents that memory must have: one of `address` and `symbol`, and one of `u8`, `u16`, `u32`, `u64`, `bytes` and `text`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct ExpectMemory {
    /// Guest-physical address of the first byte.
    pub address: Option<Spanned<Address>>,
    /// Symbol of the guest's ELF file at the first byte.
    pub symbol: Option<Spanned<String>>,
    /// Number of 8 bits that memory must contain.
    pub u8: Option<Spanned<Word>>,
    /// Number of 16 bits that memory must contain, little-endian.
    pub u16: Option<Spanned<Word>>,
    /// Number of 32 bits that memory must contain, little-endian.
    pub u32: Option<Spanned<Word>>,
    /// Number of 64 bits that memory must contain, little-endian.
    pub u64: Option<Spanned<Word>>,
    /// Bytes that memory must contain, each from 0 to 255.
    pub bytes: Option<Spanned<Vec<Spanned<Count>>>>,
    /// Text that memory must contain, without the NUL that may follow it.
    pub text: Option<Spanned<String>>,
}
