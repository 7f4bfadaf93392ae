//! `[expect]`, lowered: expectations that a finished run is compared with.

use regex::bytes::Regex;
use vmm_core::Gpa;
use vmm_core::machine::end::EndKind;
use vmm_core::spec::Register;

/// Expectations for a finished run; `None` and empty lists check nothing.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Kind of end that the run must have.
    pub end: Option<EndKind>,
    /// Text that the whole output must be.
    pub output: Option<String>,
    /// Texts that the output must contain, in any order.
    pub output_contains: Vec<String>,
    /// Pattern that must match somewhere in the output.
    pub output_regex: Option<Pattern>,
    /// Texts that the first paragraph of the autopsy must contain, in any order.
    pub cause: Vec<String>,
    /// Code that the guest must exit with.
    pub exit_code: Option<u32>,
    /// Number of exits to user space that the run must have.
    pub exits: Option<u64>,
    /// Number of exits to user space that the run must not exceed.
    pub max_exits: Option<u64>,
    /// Values that registers must have at the end of the run, with the width of the mode.
    pub registers: Vec<(Register, u64)>,
    /// Contents that guest memory must have at the end of the run.
    pub memory: Vec<ExpectedMemory>,
}

impl Expect {
    /// Returns true if the output is checked, so that a copy of it must be kept.
    #[must_use]
    pub fn checks_output(&self) -> bool {
        self.output.is_some() || !self.output_contains.is_empty() || self.output_regex.is_some()
    }
}

/// Regular expression over bytes, compiled. Its classes are ASCII only, so that it compiles quickly.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

/// Contents that a range of guest memory must have at the end of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedMemory {
    /// Location of the first byte: an address or a symbol.
    pub location: MemoryLocation,
    /// Bytes that the range must contain, in the order of addresses.
    pub bytes: Vec<u8>,
    /// True to show expected and actual bytes as one little-endian number.
    pub is_number: bool,
}

/// Location in the guest's memory: an address or a symbol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryLocation {
    /// Location at a guest-physical address.
    Address(Gpa),
    /// Symbol of the guest's ELF file.
    Symbol(String),
}
