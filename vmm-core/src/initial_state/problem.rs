//! Errors of the entry point and of preset registers.

use thiserror::Error;

use crate::cpu::control_regs::Rflags;
use crate::layout::LayoutPart;
use crate::spec::mode::Mode;
use crate::spec::{EntryPoint, Register};
use crate::{Gpa, Gva};

/// Initial state that is not possible, with all its problems.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", joined(.problems))]
pub struct StateError {
    /// All problems of the initial state; never empty.
    pub problems: Vec<StateProblem>,
}

fn joined(problems: &[StateProblem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

impl From<StateProblem> for StateError {
    fn from(problem: StateProblem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// Problem of an initial state that a machine's description asks for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateProblem {
    /// The entry is above the mode's address limit.
    #[error("entry {0} is beyond what the mode can address")]
    EntryTooHigh(EntryPoint),
    /// The entry is a segment and an offset, but the mode is not real mode.
    #[error("entry {entry}: {mode} mode takes an address, not segment:offset")]
    EntrySegmented {
        /// Entry as segment and offset.
        entry: EntryPoint,
        /// CPU mode in which the guest is to start.
        mode: Mode,
    },
    /// The page tables do not map the entry.
    #[error("entry {0} is not mapped")]
    EntryNotMapped(Gva),
    /// The entry's physical address is not in memory.
    #[error("entry {gva}: no memory at physical {gpa}")]
    EntryNoMemory {
        /// Virtual address of the entry.
        gva: Gva,
        /// Guest-physical address of the entry.
        gpa: Gpa,
    },
    /// The page of the entry is for ring 0 only, and the guest starts in ring 3.
    #[error("entry {gva} lies in a page of the {owner}, which ring 3 cannot use")]
    EntrySupervisor {
        /// Virtual address of the entry.
        gva: Gva,
        /// Owner of the page that the entry is in.
        owner: String,
    },
    /// The page of the entry has the XD bit.
    #[error("entry {0} is not executable")]
    EntryNotExecutable(Gva),
    /// A value for RIP is preset, but the entry sets it.
    #[error("register rip cannot be preset")]
    RipPreset,
    /// A register was preset more than once.
    #[error("register {} is preset twice", .0.name())]
    RegisterTwice(Register),
    /// A preset register exists in 64-bit code only.
    #[error("{mode} mode has no register {}", .register.name())]
    NoSuchRegister {
        /// Register that is preset.
        register: Register,
        /// CPU mode in which the guest is to start.
        mode: Mode,
    },
    /// A preset value has more than 32 bits.
    #[error("register {}: {value:#x} has more than the 32 bits of {mode} mode", .register.name())]
    RegisterTooWide {
        /// Register that is preset.
        register: Register,
        /// Value that the register is preset to.
        value: u64,
        /// CPU mode in which the guest is to start.
        mode: Mode,
    },
    /// A preset RFLAGS has bits that do not exist, or that would change the mode.
    #[error("register rflags: cannot set {0}")]
    Flags(Rflags),
    /// The layout was computed for another description.
    #[error("the layout has no room for the {}: it belongs to another machine", .0.name())]
    LayoutMismatch(LayoutPart),
}
