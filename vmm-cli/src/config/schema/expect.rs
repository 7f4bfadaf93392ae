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
    /// Kind of end of the run.
    pub end: Option<Spanned<EndKind>>,
    /// Whole output of the guest.
    pub output: Option<Spanned<String>>,
    /// Texts that the output contains, in any order.
    pub output_contains: Option<Spanned<Vec<Spanned<String>>>>,
    /// Regular expression that matches somewhere in the output. Classes such as \w are ASCII.
    pub output_regex: Option<Spanned<String>>,
    /// Texts that the first paragraph of the autopsy contains, for guests that should crash or hang.
    pub cause: Option<Spanned<Vec<Spanned<String>>>>,
    /// Exit code of the guest.
    pub exit_code: Option<Spanned<Count>>,
    /// Number of exits to user space.
    pub exits: Option<Spanned<Count>>,
    /// Maximum number of exits to user space.
    pub max_exits: Option<Spanned<Count>>,
    /// Registers at the end.
    pub registers: Option<Spanned<RegisterValues>>,
    /// Memory contents at the end.
    pub memory: Option<Spanned<OneOrMany<ExpectMemory>>>,
}

/// Memory contents: one of `address` and `symbol`, and one of `u8`, `u16`, `u32`, `u64`, `bytes` and `text`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct ExpectMemory {
    /// Guest-physical address.
    pub address: Option<Spanned<Address>>,
    /// Symbol of the guest's ELF file.
    pub symbol: Option<Spanned<String>>,
    /// Byte.
    pub u8: Option<Spanned<Word>>,
    /// 16 bits, little-endian.
    pub u16: Option<Spanned<Word>>,
    /// 32 bits, little-endian.
    pub u32: Option<Spanned<Word>>,
    /// 64 bits, little-endian.
    pub u64: Option<Spanned<Word>>,
    /// Bytes, each from 0 to 255.
    pub bytes: Option<Spanned<Vec<Spanned<Count>>>>,
    /// Text, without the NUL that may follow it.
    pub text: Option<Spanned<String>>,
}
