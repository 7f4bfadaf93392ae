//! `[paging]`: the page tables that the guest starts with.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::values::{Address, OneOrMany, Size};

/// Page size, number of levels and mappings; only in the modes paged, pae and long.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Paging {
    /// Size of a page: 4KiB; 2MiB in pae and long mode; 4MiB in paged mode; 1GiB in long mode.
    /// Default: 2MiB, or 4MiB in paged mode.
    pub page_size: Option<Spanned<Size>>,
    /// True for five-level paging (CR4.LA57), in long mode on a host that has it.
    #[schemars(extend("default" = false))]
    pub five_level: Option<Spanned<bool>>,
    /// True to map all memory at its own address.
    #[schemars(extend("default" = true))]
    pub identity: Option<Spanned<bool>>,
    /// Further mappings, with precedence over the identity mapping.
    pub map: Option<Spanned<OneOrMany<Map>>>,
}

/// Mapping of a virtual to a physical range.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", expecting = "a table")]
pub struct Map {
    /// First virtual address: a multiple of 4 KiB.
    #[schemars(required)]
    pub gva: Option<Spanned<Address>>,
    /// First physical address: a multiple of 4 KiB.
    #[schemars(required)]
    pub gpa: Option<Spanned<Address>>,
    /// Size of both ranges in bytes: a multiple of 4 KiB.
    #[schemars(required)]
    pub size: Option<Spanned<Size>>,
    /// True if the guest may write to the range.
    #[schemars(extend("default" = true))]
    pub writable: Option<Spanned<bool>>,
    /// True if ring 3 may access the range. Default: true for a guest in ring 3.
    pub user: Option<Spanned<bool>>,
    /// True if the guest may execute code in the range. In paged mode always true.
    #[schemars(extend("default" = true))]
    pub executable: Option<Spanned<bool>>,
}
