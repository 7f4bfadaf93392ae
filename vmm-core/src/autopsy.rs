//! Post-mortem analysis of a run: the last instructions of a guest that crashed or hangs, and the cause.
//!
//! `KVM_EXIT_SHUTDOWN` carries no reason, and on AMD hosts the vCPU's registers are already reset. Therefore a new machine
//! replays the recorded exits ([`crate::record::replay`]) and is single-stepped into the end. The cause follows from the
//! state before the last step: the exception that the instruction raises, and the failure of its delivery. For a guest that
//! hangs, the steps after the limit are sampled.
//!
//! | file | step |
//! |---|---|
//! | `fetch.rs` | instruction fetch and decoding |
//! | `page_fault.rs`, `segments.rs` | checks of memory accesses and of selector loads |
//! | `predict.rs` with `operands.rs`, `privileged.rs`, `control_transfer.rs` | exception that the next instruction raises |
//! | `exception.rs`, `delivery.rs`, `exception_chain.rs` | exception, delivery through the IDT, and exceptions raised by a failed delivery |
//! | `reexecute.rs`, `diagnose.rs` | replay of the end and the cause that follows from it |
//! | `bisect.rs` | search for a point near the end of a long run, with kicks and checkpoints |
//! | `instruction_trace.rs` | single-stepping with a trace of the last instructions |
//! | `hang.rs`, `interrupt_storm.rs`, `emulation_failure.rs` | loops, storms and waiting; instructions that KVM cannot emulate |
//! | `last_interrupt.rs` | single steps from the last interrupt before a crash |
//! | `second_run.rs`, `deliveries.rs` | machines with interrupts: the second run, and the interrupts in it |
//! | `wait.rs`, `vcpu_report.rs` | what each vCPU of such a machine waits for |
//! | `tables.rs` | stack, GDT and IDT for the report |
//! | `preflight.rs` | the same checks on a machine before its first instruction |
//! | `summary.rs`, `hang_summary.rs`, `notes.rs` | report texts |
//!
//! Observed state overrides inferred state: a predicted exception that does not happen is dropped, and registers that the
//! host kept are compared with those of the replay. The [notes](Autopsy::notes) list the facts that could not be
//! established.

mod bisect;
mod control_transfer;
mod deliveries;
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
mod last_interrupt;
mod notes;
mod operands;
mod page_fault;
mod predict;
pub mod preflight;
mod privileged;
mod reexecute;
mod second_run;
mod segments;
pub mod summary;
mod tables;
#[cfg(test)]
mod tests;
pub mod vcpu_report;
mod wait;

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use crate::cpu::cpu_state::OperandWidth;
use crate::layout::LayoutPart;
use crate::machine::Machine;
use crate::machine::end::{End, EndClass, UnmappedAccess};
use crate::machine::error::Error;
use crate::record::Divergence;
use crate::record::Recording;
use crate::spec::{Interrupts, IrqchipPlace};

use crate::cpu::cpu_state::CpuState;
use emulation_failure::EmulationFailure;
use exception_chain::ExceptionChain;
use hang::HangKind;
use instruction_trace::{DeliveredException, TracedInstruction};
pub use last_interrupt::ReturnKind;
use second_run::SecondRun;
pub use tables::{DescriptorTables, StackWord};
use vcpu_report::VcpuReport;

/// Result of the post-mortem analysis of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Autopsy {
    /// End of the run that was examined.
    pub end: End,
    /// Cause of the end of the run.
    pub cause: Cause,
    /// Number of the vCPU that ended the run, on a machine with several.
    pub vcpu: Option<u64>,
    /// Registers before the instruction that ended the run. `None` if they are not known.
    pub registers: Option<CpuState>,
    /// Instruction that ended the run. Its bytes are empty if it could not be fetched.
    pub instruction: Option<InstructionBytes>,
    /// Last instructions before the one that ended the run, oldest first.
    pub previous_instructions: Vec<TracedInstruction>,
    /// Exceptions whose handlers had not returned, outermost first.
    pub active_exceptions: Vec<DeliveredException>,
    /// Exceptions raised by the last instruction and by their failed deliveries.
    pub chain: Option<ExceptionChain>,
    /// Words at the top of the guest's stack.
    pub stack: Vec<StackWord>,
    /// GDT and IDT of the guest before the end.
    pub tables: Option<DescriptorTables>,
    /// vCPUs of a machine with interrupts that hangs or waits, by number. The cause is about the first one.
    pub vcpus: Vec<VcpuReport>,
    /// Further observations, and facts that could not be established.
    pub notes: Vec<AutopsyNote>,
    /// Origin of the guest's state in this analysis: replay, final registers or exception frame.
    pub source: StateSource,
    /// Duration of the analysis itself.
    pub elapsed: Duration,
    /// Base of the IDT that the machine made.
    initial_idt: Option<u64>,
}

/// Cause of the end of a run.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Cause {
    /// Exception that the guest could not handle. [`Autopsy::chain`] has the details.
    Exception,
    /// Instruction that KVM could not execute.
    EmulationFailure(EmulationFailure),
    /// Instruction fetch from a guest-physical address without memory.
    UnmappedFetch,
    /// VM entry failed because of an invalid guest state (`KVM_EXIT_FAIL_ENTRY`).
    FailEntry {
        /// Reason of the entry failure as the CPU gave it.
        reason: u64,
    },
    /// Interrupt that could not be delivered. [`Autopsy::chain`] has the details.
    Interrupt {
        /// Vector of the interrupt.
        vector: u8,
        /// Source of the interrupt in words, such as `the timer of the local APIC`; `None` if it is not known.
        source: Option<String>,
    },
    /// HLT from which nothing wakes the vCPU.
    Halt {
        /// True if RFLAGS.IF was set.
        interrupts: bool,
        /// Interrupt controllers of the machine, none of which had an interrupt to come.
        controllers: Interrupts,
    },
    /// The guest was stopped by a limit.
    Hang(Box<HangKind>),
    /// Access to an unmapped port or address where the machine does not allow it.
    UnmappedAccess(UnmappedAccess),
    /// End requested by the guest itself.
    GuestExit,
    /// Cause that the analysis could not find.
    Unknown,
}

/// Bytes of an instruction in guest memory.
#[derive(Debug, Clone)]
pub struct InstructionBytes {
    /// Linear address of the instruction.
    pub linear: u64,
    /// Bytes of the instruction as they are in guest memory. Empty if they could not be fetched.
    pub bytes: Vec<u8>,
    /// Operand width of the code that the instruction is in.
    pub width: OperandWidth,
}

/// Origin of the guest's state in an analysis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateSource {
    /// Replay of the run, single-stepped into the end.
    Replay {
        /// Number of exits that were replayed.
        exits: u64,
        /// Number of instructions that were single-stepped.
        steps: u64,
    },
    /// Registers of the vCPU at the end.
    FinalRegisters,
    /// Exception frame that the CPU pushed.
    ExceptionFrame,
    /// Second run of the guest, on interrupt controllers in this process.
    SecondRun,
    /// Second run of the guest, single-stepped from its last interrupt on into the end.
    LastInterrupt {
        /// Number of instructions that were single-stepped.
        steps: u64,
    },
}

/// Observation of an autopsy, or a reason why something is not known.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AutopsyNote {
    /// The replay diverged from the recorded run.
    Diverged(Divergence),
    /// The guest read a clock or random numbers, so another run may differ.
    NonDeterministic {
        /// Clock or random numbers that the guest read.
        what: &'static str,
        /// Linear address of the instruction that read the clock or the random numbers.
        at: u64,
    },
    /// The time budget was used up before the end was reached.
    OutOfTime(Duration),
    /// The recording holds only some of the exits.
    RecordingIncomplete {
        /// Number of exits in the recording.
        recorded: u64,
        /// Number of exits of the whole run.
        seen: u64,
    },
    /// The host cannot single-step the guest's code.
    SingleStepUnsupported,
    /// Interrupts came, which a replay of the exits does not repeat.
    InterruptsNotRepeated,
    /// A device had effects outside of the machine or input that is not recorded, so the run was not replayed.
    ExternalSideEffect {
        /// Name of the device that had the effects or the input.
        device: &'static str,
    },
    /// Several vCPUs ran concurrently, which cannot be replayed.
    MultipleVcpus {
        /// Number of the vCPU that ended the run.
        vcpu: u64,
    },
    /// Registers kept by the host agree with the replay.
    RegistersConfirmed,
    /// Registers kept by the host differ from the replay.
    RegistersDiffer {
        /// Linear instruction pointer that the host kept.
        host_rip: u64,
    },
    /// Last write to a table entry that caused the end.
    LastWriter {
        /// Kind of the table entry that was written, such as a page table entry.
        what: &'static str,
        /// Instruction that wrote the entry.
        by: TracedInstruction,
        /// Number of instructions between the write and the end.
        ago: u64,
        /// True if the instruction pushes on the stack.
        stack: bool,
    },
    /// CR3 was loaded by one of the last instructions.
    Cr3Changed {
        /// Instruction that loaded CR3.
        by: TracedInstruction,
        /// New value of CR3.
        cr3: u64,
    },
    /// RIP points into a table that the machine made.
    RipInTable {
        /// Name of the table that RIP points into.
        part: &'static str,
        /// Last jump, and the number of instructions between it and the end.
        jump: Option<(TracedInstruction, u64)>,
    },
    /// RSP points into a table that the machine made. The value is the name of the table.
    RspInTable(&'static str),
    /// Interrupt that was last in service, when the guest was run again on interrupt controllers in this process, as it ended.
    InterruptInService {
        /// Vector of the interrupt.
        vector: u8,
        /// Source of the interrupt in words; `None` if it is not known.
        source: Option<String>,
        /// Linear address of the instruction before which the interrupt came.
        at: u64,
    },
    /// Last interrupt before the end, from which on the guest was single-stepped.
    LastInterrupt {
        /// Vector of the interrupt.
        vector: u8,
        /// Source of the interrupt in words; `None` if it is not known.
        source: Option<String>,
        /// Linear address of the instruction before which the interrupt came.
        at: u64,
        /// Linear address to which the handler returned before the end; `None` if it had not executed IRET.
        returned: Option<u64>,
        /// Registers that the handler did not preserve: name, value before, value after.
        changed: Vec<(&'static str, u64, u64)>,
    },
    /// The replay came to a different end.
    DifferentEnd(End),
    /// Error of the host during the analysis.
    HostError(String),
}

/// Builder of a copy of the machine that ended, in its state before the run, with its interrupt controllers in the given place.
pub type BuildCopy<'a> = dyn Fn(IrqchipPlace) -> Result<Machine, Error> + 'a;

/// Examines a run that ended: repeats it where that is possible, and finds the cause of its end.
///
/// `build` returns a new machine in its state before the run, with a console whose output is discarded. `budget` limits the
/// time of the replay. Errors on the way become [`AutopsyNote::HostError`].
///
/// If `build` is called, `ended` is released before ([`Machine::release`]): a machine without interrupt controllers in the kernel
/// cannot run or be reset from then on. With `build` on the [`Kvm`](crate::Kvm) of `ended`, no VM is created for it.
pub fn examine(
    ended: &Machine,
    end: &End,
    recording: &Recording,
    build: &BuildCopy<'_>,
    budget: Duration,
) -> Autopsy {
    let started = Instant::now();
    let released = OnceCell::new();
    let build_in = &|place| {
        if released.get().is_none() {
            let reservation = ended.release()?;
            released.get_or_init(|| reservation);
        }
        build(place)
    };
    let build = &|| build_in(ended.spec().irqchip);
    let mut autopsy = Autopsy {
        end: end.clone(),
        cause: Cause::Unknown,
        vcpu: (ended.spec().vcpus > 1).then(|| ended.vcpu().id()),
        registers: None,
        instruction: None,
        previous_instructions: Vec::new(),
        active_exceptions: Vec::new(),
        chain: None,
        stack: Vec::new(),
        tables: None,
        vcpus: Vec::new(),
        notes: Vec::new(),
        source: StateSource::FinalRegisters,
        elapsed: Duration::ZERO,
        initial_idt: ended
            .board
            .layout
            .ranges()
            .iter()
            .find(|placed| placed.part() == Some(LayoutPart::Idt))
            .map(|placed| placed.range.start().0),
    };
    let second_run = autopsy.examine_interrupts(ended, build_in, budget);
    let result = match (&second_run, end.class()) {
        (Ok(SecondRun::Explained), _) => Ok(()),
        (_, EndClass::Stopped) => autopsy.examine_hang(ended, build, budget),
        // A vCPU without controllers in the kernel exits at HLT, which its single steps see.
        (Ok(SecondRun::Recorded(recording)), EndClass::Finished | EndClass::Failed) => {
            let build = &|| build_in(IrqchipPlace::Userspace);
            autopsy.examine_end(ended, recording, false, build, budget)
        }
        (second_run, EndClass::Finished | EndClass::Failed) => {
            let interrupted = matches!(second_run, Ok(SecondRun::Interrupted));
            autopsy.examine_end(ended, recording, interrupted, build, budget)
        }
    };
    let errors = [second_run.err(), result.err()].into_iter().flatten();
    autopsy.notes.extend(errors.map(|error| AutopsyNote::HostError(error.to_string())));
    autopsy.elapsed = started.elapsed();
    autopsy
}
