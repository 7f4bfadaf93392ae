//! `[expect]`, lowered: expectations that a finished run is compared with.

use regex::bytes::Regex;
use vmm_core::Gpa;
use vmm_core::machine::end::EndKind;
use vmm_core::spec::Register;

/// Expectations for a finished run; `None` and empty lists check nothing.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Kind of end.
    pub end: Option<EndKind>,
    /// Whole output.
    pub output: Option<String>,
    /// Texts that the output contains, in any order.
    pub output_contains: Vec<String>,
    /// Pattern that matches somewhere in the output.
    pub output_regex: Option<Pattern>,
    /// Texts that the first paragraph of the autopsy contains, in any order.
    pub cause: Vec<String>,
    /// Exit code of the guest.
    pub exit_code: Option<u32>,
    /// Number of exits to user space.
    pub exits: Option<u64>,
    /// Maximum number of exits to user space.
    pub max_exits: Option<u64>,
    /// Registers at the end, with the width of the mode.
    pub registers: Vec<(Register, u64)>,
    /// Memory contents at the end.
    pub memory: Vec<ExpectedMemory>,
}

impl Expect {
    /// Returns true if the output is checked, so that a copy of it must be kept.
    #[must_use]
    pub fn checks_output(&self) -> bool {
        self.output.is_some() || !self.output_contains.is_empty() || self.output_regex.is_some()
    }
}

/// Compiled regular expression over bytes. Its classes are ASCII only, so that it compiles quickly.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

/// Expected memory contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedMemory {
    /// Location of the first byte.
    pub location: MemoryLocation,
    /// Bytes, in the order of addresses.
    pub bytes: Vec<u8>,
    /// True to show expected and actual bytes as one little-endian number.
    pub is_number: bool,
}

/// Location in the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryLocation {
    /// Guest-physical address.
    Address(Gpa),
    /// Symbol of the guest's ELF file.
    Symbol(String),
}
