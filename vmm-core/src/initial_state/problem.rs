//! What can be wrong with an entry or a preset register, in words.

use thiserror::Error;

use crate::cpu::control_regs::Rflags;
use crate::layout::LayoutPart;
use crate::spec::mode::Mode;
use crate::spec::{EntryPoint, Register};
use crate::{Gpa, Gva};

/// The state cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", joined(.problems))]
pub struct StateError {
    /// All that is wrong; never empty.
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

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StateProblem {
    /// The entry lies beyond what the mode can address.
    #[error("entry {0} is beyond what the mode can address")]
    EntryTooHigh(EntryPoint),
    /// A segment and an offset outside real mode.
    #[error("entry {entry}: {mode} mode takes an address, not segment:offset")]
    EntrySegmented {
        /// The entry.
        entry: EntryPoint,
        /// The mode.
        mode: Mode,
    },
    /// The page tables do not map the entry.
    #[error("entry {0} is not mapped")]
    EntryNotMapped(Gva),
    /// The entry leads to where no memory is.
    #[error("entry {gva}: no memory at physical {gpa}")]
    EntryNoMemory {
        /// The entry.
        gva: Gva,
        /// Where it leads.
        gpa: Gpa,
    },
    /// Ring 3 cannot execute a page of ring 0.
    #[error("entry {gva} lies in a page of the {owner}, which ring 3 cannot use")]
    EntrySupervisor {
        /// The entry.
        gva: Gva,
        /// What lies there.
        owner: String,
    },
    /// The page of the entry has the XD bit.
    #[error("entry {0} is not executable")]
    EntryNotExecutable(Gva),
    /// The instruction pointer is the entry's.
    #[error("register rip cannot be preset")]
    RipPreset,
    /// A register was preset more than once.
    #[error("register {} is preset twice", .0.name())]
    RegisterTwice(Register),
    /// A register that only 64-bit code has.
    #[error("{mode} mode has no register {}", .register.name())]
    NoSuchRegister {
        /// The register.
        register: Register,
        /// The mode.
        mode: Mode,
    },
    /// A value of more than 32 bits.
    #[error("register {}: {value:#x} has more than the 32 bits of {mode} mode", .register.name())]
    RegisterTooWide {
        /// The register.
        register: Register,
        /// The value.
        value: u64,
        /// The mode.
        mode: Mode,
    },
    /// Flags that do not exist, or would change the mode.
    #[error("register rflags: cannot set {0}")]
    Flags(Rflags),
    /// The layout was not computed for this description.
    #[error("the layout has no room for the {}: it belongs to another machine", .0.name())]
    LayoutMismatch(LayoutPart),
}

impl StateProblem {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        let text = match self {
            Self::EntryTooHigh(_) => "real mode reaches 1 MiB, 32-bit modes reach 4 GiB",
            Self::EntrySegmented { .. } => "write the entry as an address",
            Self::EntryNotMapped(_) => "add a [[paging.map]] that covers it, or choose another entry",
            Self::EntryNoMemory { .. } => "make the memory larger, or choose another entry",
            Self::EntrySupervisor { .. } => "move one of the two by [layout]",
            Self::EntryNotExecutable(_) => "leave `executable = false` out of its [[paging.map]]",
            Self::RipPreset => "use `entry`",
            Self::RegisterTwice(_) => "keep one of the two",
            Self::NoSuchRegister { .. } => "r8 to r15 exist in long mode only",
            Self::RegisterTooWide { .. } => "use a smaller value",
            Self::Flags(_) => "use flags that software may set: CF to OF, IOPL, NT, RF, AC, ID",
            Self::LayoutMismatch(_) => return None,
        };
        Some(text.to_owned())
    }
}
