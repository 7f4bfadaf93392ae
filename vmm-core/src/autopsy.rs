//! The autopsy of a guest that died or hangs: what it did last, and why that was its end.
//!
//! KVM says that a guest shut down, and no word more; on AMD hosts even its registers are gone by then. So the run is
//! repeated: a machine is built again, led along the recorded exits ([`crate::record::replay`]), brought near the end, and
//! single-stepped into it. The state before the last step is examined: which fault must this instruction raise, and why
//! could nobody deliver it. A guest that hangs is examined the other way: its steps after the limit are sampled.
//!
//! | file | step |
//! |---|---|
//! | `moment.rs` | registers and memory between two instructions; fetching and decoding |
//! | `access.rs`, `segments.rs` | may the CPU touch this address, load this selector |
//! | `faults.rs` with `operands.rs`, `system.rs`, `transfer.rs` | which fault the next instruction raises |
//! | `fault.rs`, `delivery.rs`, `chain.rs` | a fault, its way through the IDT, and what follows when that fails |
//! | `retrace.rs`, `judge.rs` | the end once more, and what to make of it |
//! | `narrow.rs` | near the end of a long run, with kicks and checkpoints |
//! | `trail.rs` | the last steps, one by one |
//! | `hang.rs`, `refusal.rs` | loops, storms and waiting; what KVM cannot emulate |
//! | `preflight.rs` | the same reasoning on a machine that did not run yet |
//! | `words.rs`, `hang_words.rs`, `remarks.rs` | the cause in two or three sentences |
//!
//! What is reasoned is held against what is seen: a predicted fault that does not happen is forgotten, and registers that
//! the host kept are compared with those found. What could not be established is in the [notes](Autopsy::notes).

mod bisect;
mod control_transfer;
pub mod delivery;
mod diagnose;
pub mod emulation_failure;
pub mod exception;
pub mod exception_chain;
mod fetch;
pub mod hang;
mod hang_summary;
pub mod instruction_trace;
mod interrupt_storm;
mod notes;
mod operands;
mod page_fault;
mod predict;
pub mod preflight;
mod privileged;
mod reexecute;
mod segments;
pub mod summary;
mod tables;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::cpu::cpu_state::OperandWidth;
use crate::machine::Machine;
use crate::machine::end::{End, EndClass, UnmappedAccess};
use crate::machine::error::Error;
use crate::record::Divergence;
use crate::record::Recording;

use crate::cpu::cpu_state::CpuState;
use emulation_failure::EmulationFailure;
use exception_chain::ExceptionChain;
use hang::Hang;
use instruction_trace::{DeliveredException, TracedInstruction};
pub use tables::{StackWord, Tables};

/// What a guest died of.
#[derive(Debug, Clone)]
pub struct Autopsy {
    /// How the run ended.
    pub end: End,
    /// The cause.
    pub cause: Cause,
    /// The registers before the instruction that ended the run.
    pub registers: Option<CpuState>,
    /// That instruction; its bytes are missing where it could not be fetched.
    pub instruction: Option<Code>,
    /// The last instructions before it, the oldest first.
    pub before: Vec<TracedInstruction>,
    /// Exceptions whose handlers had not returned, outermost first.
    pub open: Vec<DeliveredException>,
    /// The exceptions that the last instruction led to.
    pub chain: Option<ExceptionChain>,
    /// The words on top of the stack.
    pub stack: Vec<StackWord>,
    /// GDT and IDT as they were found.
    pub tables: Option<Tables>,
    /// What else was noticed, and what could not be established.
    pub notes: Vec<AutopsyNote>,
    /// How the state before the end was obtained.
    pub source: Source,
    /// How long it took.
    pub elapsed: Duration,
}

/// The cause of an end.
#[derive(Debug, Clone)]
pub enum Cause {
    /// An exception; the chain says the rest.
    Exception,
    /// An instruction that KVM could not execute.
    Refused(EmulationFailure),
    /// Code was to be fetched from where no memory is.
    NoCode,
    /// The CPU refused the state.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// HLT.
    Halt {
        /// Whether interrupts were on.
        interrupts: bool,
    },
    /// It did not end.
    Hang(Box<Hang>),
    /// An access to nothing, where that is not allowed.
    UnmappedAccess(UnmappedAccess),
    /// The guest ended the run itself.
    Ended,
    /// Not found.
    Unknown,
}

/// An instruction in memory.
#[derive(Debug, Clone)]
pub struct Code {
    /// Its linear address.
    pub linear: u64,
    /// Its bytes; empty where they could not be fetched.
    pub bytes: Vec<u8>,
    /// The width of the code.
    pub width: OperandWidth,
}

/// How the state before the end was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// By running the guest again and stepping into the end.
    Replay {
        /// Exits that were replayed.
        exits: u64,
        /// Single steps.
        steps: u64,
    },
    /// From the registers at the end.
    Registers,
    /// From the frame that the CPU pushed.
    Frame,
}

/// Something noticed.
#[derive(Debug, Clone)]
pub enum AutopsyNote {
    /// The guest left the recorded run when it was run again.
    Diverged(Divergence),
    /// The guest read a clock or random numbers, so another run may differ.
    Unrepeatable {
        /// What it read.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// Time was up.
    OutOfTime(Duration),
    /// The record of the run is not complete.
    Overflowed {
        /// Exits in it.
        recorded: u64,
        /// Exits of the run.
        seen: u64,
    },
    /// Single steps do not work here.
    NoSteps,
    /// A device changed what is outside of the machine, or took what is not recorded, so the run was not repeated.
    ExternalSideEffect {
        /// Its name.
        device: &'static str,
    },
    /// Several vCPUs ran at the same time, which cannot be had again.
    MultipleVcpus {
        /// The one that ended the run.
        vcpu: u64,
    },
    /// The host kept the registers, and they are those found.
    Confirmed,
    /// The host kept the registers, and they differ from those found.
    Contradicted {
        /// The instruction pointer that the host kept, linear.
        kept: u64,
    },
    /// Who wrote something that turned out to be wrong.
    Writer {
        /// What was written.
        what: &'static str,
        /// The instruction.
        by: TracedInstruction,
        /// How many instructions before the end.
        ago: u64,
        /// Whether it was a push, call or the like.
        stack: bool,
    },
    /// CR3 was loaded by one of the last instructions.
    RootChanged {
        /// The instruction.
        by: TracedInstruction,
        /// The value of CR3.
        cr3: u64,
    },
    /// The CPU executes something of ours that is not code.
    RipInTable {
        /// What it is.
        part: &'static str,
        /// The last jump, and how many instructions before the end it was.
        jump: Option<(TracedInstruction, u64)>,
    },
    /// The stack pointer points into something of ours.
    RspInTable(&'static str),
    /// The guest came to another end when it was run again.
    OtherEnd(End),
    /// The host failed.
    HostError(String),
}

/// Examines a run that ended. `build` gives the machine as it was at the start, on every call, with a console that goes
/// nowhere.
///
/// Never fails: what goes wrong on the way is noted, and the report says what is known.
pub fn examine(
    ended: &Machine,
    end: &End,
    recording: &Recording,
    build: &dyn Fn() -> Result<Machine, Error>,
    budget: Duration,
) -> Autopsy {
    let started = Instant::now();
    let mut autopsy = Autopsy {
        end: end.clone(),
        cause: Cause::Unknown,
        registers: None,
        instruction: None,
        before: Vec::new(),
        open: Vec::new(),
        chain: None,
        stack: Vec::new(),
        tables: None,
        notes: Vec::new(),
        source: Source::Registers,
        elapsed: Duration::ZERO,
    };
    let result = match end.class() {
        EndClass::Stopped => autopsy.of_hang(ended, build, budget),
        EndClass::Finished | EndClass::Failed => autopsy.of_end(ended, recording, build, budget),
    };
    if let Err(error) = result {
        autopsy.notes.push(AutopsyNote::HostError(error.to_string()));
    }
    autopsy.elapsed = started.elapsed();
    autopsy
}
