//! `[expect]`, lowered: what a finished run is held against.

use regex::bytes::Regex;
use vmm_core::Gpa;
use vmm_core::machine::end_kind::EndKind;
use vmm_core::spec::Register;

/// What has to be true after the run; `None` and empty lists check nothing.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// How the run has to end.
    pub end: Option<EndKind>,
    /// The whole output.
    pub output: Option<String>,
    /// Texts in the output, in any order.
    pub output_contains: Vec<String>,
    /// A pattern that matches somewhere in the output.
    pub output_regex: Option<Pattern>,
    /// Texts in the first paragraph of the autopsy, in any order.
    pub cause: Vec<String>,
    /// The guest's exit code.
    pub exit_code: Option<u32>,
    /// The number of exits to user space.
    pub exits: Option<u64>,
    /// The largest number of exits to user space.
    pub max_exits: Option<u64>,
    /// Registers at the end, as wide as the mode.
    pub registers: Vec<(Register, u64)>,
    /// Contents of memory at the end.
    pub memory: Vec<ExpectedMemory>,
}

impl Expect {
    /// Whether anything is said about the output, so that a copy of it has to be kept.
    #[must_use]
    pub fn checks_output(&self) -> bool {
        self.output.is_some() || !self.output_contains.is_empty() || self.output_regex.is_some()
    }
}

/// A compiled regular expression over bytes, ASCII only in its classes, so that it is quick to compile.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

/// What memory holds at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedMemory {
    /// Where.
    pub place: MemoryPlace,
    /// The bytes, in the order of addresses.
    pub bytes: Vec<u8>,
    /// How to show them and what is found instead: as one little-endian number of all the bytes.
    pub is_number: bool,
}

/// A place in the guest's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryPlace {
    /// A guest-physical address.
    Address(Gpa),
    /// A symbol of the guest's ELF file.
    Symbol(String),
}
