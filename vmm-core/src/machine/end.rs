//! Ends of a run, their kinds, and their verdicts.
//!
//! An [`End`] is a fact; a [`Verdict`] is what it is worth: with HLT, that depends on the configuration. Only HLT, the way
//! back from ring 3, exit code 0, power-off and, where the configuration says so, a reset can ever be a success.

use std::fmt;
use std::time::Duration;

use kvm_sys_wrap::Exit;
use serde::Deserialize;

use crate::cpu::ring3_trap::{ExceptionFrame, exception_name};
use crate::devices::device::Action;
use crate::spec::{BusAddress, HaltPolicy, ResetPolicy};

/// End of a run, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The guest executed HLT, and nothing wakes it.
    Halt {
        /// True if interrupts were enabled at the HLT (RFLAGS.IF). If not, no interrupt could have woken the vCPU.
        interrupts: bool,
    },
    /// A ring-3 guest ended its run with `int 0x80`.
    Ring3Exit,
    /// The guest asked to end, over the exit port or the hypercall registers.
    Exit {
        /// Exit code of the guest; 0 is success.
        code: u32,
    },
    /// The guest switched the machine off, by ACPI or a port.
    PowerOff,
    /// The guest asked for a reset, by the keyboard controller or a port.
    Reset,
    /// The guest suspended the machine to memory.
    Suspend(Suspend),
    /// The vCPU shut down: in most cases a triple fault.
    Shutdown,
    /// KVM could not go on, mostly because of an instruction it cannot emulate.
    InternalError {
        /// Number of the error (`KVM_INTERNAL_ERROR_*`).
        suberror: u32,
        /// Further data of the error, whose meaning depends on its number.
        data: Vec<u64>,
    },
    /// The CPU refused to enter the guest because of its state.
    FailEntry {
        /// Reason of the entry failure as the CPU gave it.
        reason: u64,
        /// Host CPU on which the entry failed.
        cpu: u32,
    },
    /// A guest in ring 3 raised an exception, and has no kernel that could handle it.
    Exception {
        /// Vector of the exception, 0 to 255.
        vector: u8,
        /// Exception frame that the CPU pushed, if it can be read.
        frame: Option<ExceptionFrame>,
    },
    /// Access to an unmapped port or address, on a machine that stops then.
    Unmapped(UnmappedAccess),
    /// The guest asked the host for a reset or power-off, or reported a crash.
    SystemEvent {
        /// Number of the event (`KVM_SYSTEM_EVENT_*`).
        kind: u32,
    },
    /// The time limit of the run passed.
    TimeLimit(Duration),
    /// The guest made more exits than allowed.
    ExitLimit(u64),
    /// The user ended the run, by Ctrl-C or another signal.
    Interrupted,
    /// Exit of a kind that this machine does not enable.
    Unserved(Exit),
}

/// End of a suspension to memory: a time, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspend {
    /// The machine wakes at a time since the Unix epoch. Runs go on then; debugged runs end here.
    Until(Duration),
    /// The machine never wakes: no alarm is set.
    NoAlarm,
    /// The machine never wakes: the FACS has no waking vector below 1 MiB.
    NoVector(u32),
}

/// Access of the guest to a port or address where no memory or device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnmappedAccess {
    /// I/O port or guest-physical address that was accessed.
    pub at: BusAddress,
    /// Number of bytes that were accessed.
    pub width: usize,
    /// Value that was written; `None` for a read.
    pub written: Option<u64>,
    /// RIP at the exit: at the instruction or after it, depending on the host.
    pub rip: u64,
}

macro_rules! end_kinds {
    ($($(#[$attribute:meta])* $kind:ident = $name:literal,)*) => {
        /// Kind of a run's end, without its data.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
        #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
        pub enum EndKind {
            $($(#[$attribute])* #[serde(rename = $name)] $kind,)*
        }

        impl EndKind {
            /// Returns the name of the kind in `[expect] end` and in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }
        }
    };
}

// A configuration cannot expect those that are not deserialized.
end_kinds! {
    /// The guest executed HLT, or came back from ring 3 by `int 0x80`.
    Halt = "halt",
    /// The guest ended the run with an exit code.
    Exit = "exit",
    /// The guest switched the machine off.
    PowerOff = "power-off",
    /// The guest requested a reset.
    Reset = "reset",
    /// The guest suspended the machine, and nothing wakes it.
    Suspend = "suspend",
    /// Triple fault or another shutdown of the CPU.
    Shutdown = "shutdown",
    /// KVM could not continue (KVM_EXIT_INTERNAL_ERROR).
    InternalError = "internal-error",
    /// The CPU refused to enter the guest (KVM_EXIT_FAIL_ENTRY).
    FailEntry = "fail-entry",
    /// A ring-3 guest raised an exception.
    Exception = "exception",
    /// The guest accessed an unmapped address, and unmapped = "stop".
    Unmapped = "unmapped",
    /// limits.time was reached.
    TimeLimit = "time-limit",
    /// limits.exits was reached.
    ExitLimit = "exit-limit",
    /// The guest requested a reset or power-off of KVM, or reported a crash (KVM_EXIT_SYSTEM_EVENT).
    #[serde(skip_deserializing)]
    SystemEvent = "system-event",
    /// The user ended the run.
    #[serde(skip_deserializing)]
    Interrupted = "interrupted",
    /// KVM exited for a reason that the machine never asked for.
    #[serde(skip_deserializing)]
    Unserved = "unserved",
}

/// Class of a run's end: finished by the guest, failed, or stopped from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndClass {
    /// The guest ended the run: by HLT, `int 0x80` in ring 3, an exit code, power-off, reset, suspend or a system event.
    Finished,
    /// The guest or KVM could not continue.
    Failed,
    /// The run was stopped from outside: a limit passed, or it was interrupted.
    Stopped,
}

/// Judgement of a run's end: success, or the kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest ended successfully.
    Success,
    /// The guest ended with an exit code other than 0.
    Code(u32),
    /// The guest crashed.
    Crashed,
    /// The guest hung: it did not end by itself, or waits forever.
    Hung,
    /// The user interrupted the run.
    Interrupted,
}

impl End {
    /// Returns the name of the end's kind in `[expect] end` and in reports.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.kind().name()
    }

    /// Returns the kind of this end.
    #[must_use]
    pub const fn kind(&self) -> EndKind {
        match self {
            Self::Halt { .. } | Self::Ring3Exit => EndKind::Halt,
            Self::Exit { .. } => EndKind::Exit,
            Self::PowerOff => EndKind::PowerOff,
            Self::Reset => EndKind::Reset,
            Self::Suspend(_) => EndKind::Suspend,
            Self::Shutdown => EndKind::Shutdown,
            Self::InternalError { .. } => EndKind::InternalError,
            Self::FailEntry { .. } => EndKind::FailEntry,
            Self::Exception { .. } => EndKind::Exception,
            Self::Unmapped(_) => EndKind::Unmapped,
            Self::SystemEvent { .. } => EndKind::SystemEvent,
            Self::TimeLimit(_) => EndKind::TimeLimit,
            Self::ExitLimit(_) => EndKind::ExitLimit,
            Self::Interrupted => EndKind::Interrupted,
            Self::Unserved(_) => EndKind::Unserved,
        }
    }

    /// Returns the class of the end.
    #[must_use]
    pub const fn class(&self) -> EndClass {
        match self {
            Self::Halt { .. }
            | Self::Ring3Exit
            | Self::Exit { .. }
            | Self::PowerOff
            | Self::Reset
            | Self::Suspend(_)
            | Self::SystemEvent { .. } => EndClass::Finished,
            Self::Shutdown
            | Self::InternalError { .. }
            | Self::FailEntry { .. }
            | Self::Exception { .. }
            | Self::Unmapped(_)
            | Self::Unserved(_) => EndClass::Failed,
            Self::TimeLimit(_) | Self::ExitLimit(_) | Self::Interrupted => EndClass::Stopped,
        }
    }

    /// Returns the exit code of the guest, if it gave one.
    #[must_use]
    pub const fn exit_code(&self) -> Option<u32> {
        if let Self::Exit { code } = self { Some(*code) } else { None }
    }

    /// Returns the verdict on the end for a machine with the given policies for HLT and reset.
    #[must_use]
    pub const fn verdict(&self, halt: HaltPolicy, reset: ResetPolicy) -> Verdict {
        match self {
            Self::PowerOff => Verdict::Success,
            Self::Reset => match reset {
                ResetPolicy::Success => Verdict::Success,
                ResetPolicy::Failure => Verdict::Crashed,
            },
            // The guest waits for an interrupt, and none will ever come.
            Self::Halt { interrupts: true } => Verdict::Hung,
            Self::Halt { interrupts: false } | Self::Ring3Exit => match halt {
                HaltPolicy::Success => Verdict::Success,
                HaltPolicy::Hung => Verdict::Hung,
            },
            Self::Exit { code: 0 } => Verdict::Success,
            Self::Exit { code } => Verdict::Code(*code),
            Self::Shutdown
            | Self::InternalError { .. }
            | Self::FailEntry { .. }
            | Self::Exception { .. }
            | Self::Unmapped(_)
            | Self::SystemEvent { .. }
            | Self::Unserved(_) => Verdict::Crashed,
            Self::Suspend(_) | Self::TimeLimit(_) | Self::ExitLimit(_) => Verdict::Hung,
            Self::Interrupted => Verdict::Interrupted,
        }
    }

    /// Returns the end of the run that a device's action leads to, if any.
    pub(crate) fn from_action(action: Action) -> Option<Self> {
        match action {
            Action::Continue => None,
            Action::Exit(code) => Some(Self::Exit { code }),
            Action::PowerOff => Some(Self::PowerOff),
            Action::Reset => Some(Self::Reset),
            Action::Suspend { wake } => Some(Self::Suspend(wake.map_or(Suspend::NoAlarm, Suspend::Until))),
        }
    }
}

/// One sentence, without full stop.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Halt { interrupts: true } => {
                f.write_str("HLT with interrupts on, and nothing that could wake the vCPU")
            }
            Self::Halt { interrupts: false } => {
                f.write_str("HLT with interrupts off (cli; hlt), from which nothing wakes")
            }
            Self::Ring3Exit => f.write_str("the guest came back from ring 3 by int 0x80"),
            Self::Exit { code } => write!(f, "the guest ended with code {code}"),
            Self::PowerOff => f.write_str("the guest switched the machine off"),
            Self::Reset => f.write_str("the guest asked for a reset"),
            Self::Suspend(sleep) => write!(f, "the guest suspended the machine, {sleep}"),
            Self::Shutdown => f.write_str("the vCPU shut down, which mostly means a triple fault"),
            Self::InternalError { suberror, .. } => {
                write!(f, "KVM could not go on: {}", internal_error_name(*suberror))
            }
            Self::FailEntry { reason, .. } => {
                write!(f, "the CPU refused to enter the guest: hardware reason {reason:#x}")
            }
            Self::Exception { vector, frame } => write_exception(f, *vector, *frame),
            Self::Unmapped(access) => write!(f, "{access}"),
            Self::SystemEvent { kind } => write!(f, "the guest raised system event {kind}"),
            Self::TimeLimit(limit) => write!(f, "it was still running after {limit:?}"),
            Self::ExitLimit(limit) => write!(f, "it made more than {limit} exits"),
            Self::Interrupted => f.write_str("the run was interrupted"),
            Self::Unserved(exit) => {
                write!(f, "the vCPU stopped with an exit that nothing here serves: {exit:?}")
            }
        }
    }
}

impl fmt::Display for Suspend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(_) => f.write_str("until an alarm of its clock"),
            Self::NoAlarm => f.write_str("and no alarm is on that may wake it"),
            Self::NoVector(0) => f.write_str("and left no waking vector in the FACS"),
            Self::NoVector(vector) => write!(f, "with a waking vector beyond 1 MiB: {vector:#x}"),
        }
    }
}

fn write_exception(f: &mut fmt::Formatter<'_>, vector: u8, frame: Option<ExceptionFrame>) -> fmt::Result {
    match exception_name(vector) {
        Some((mnemonic, name)) => write!(f, "exception {vector} in ring 3: {mnemonic}, {name}")?,
        None => write!(f, "interrupt {vector:#x} in ring 3")?,
    }
    let Some(frame) = frame else { return Ok(()) };
    if let Some(code) = frame.error_code {
        write!(f, ", error code {code:#x}")?;
    }
    write!(f, ", at {:#x}", frame.rip)
}

impl fmt::Display for UnmappedAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, width, written, rip } = self;
        let bytes = if *width == 1 { "byte" } else { "bytes" };
        match (written, at) {
            (None, BusAddress::Port(port)) => write!(f, "read of {width} {bytes} from port {port}")?,
            (None, BusAddress::Mmio(gpa)) => write!(f, "read of {width} {bytes} at address {gpa}")?,
            (Some(value), BusAddress::Port(port)) => {
                write!(f, "write of {value:#x}, {width} {bytes}, to port {port}")?;
            }
            (Some(value), BusAddress::Mmio(gpa)) => {
                write!(f, "write of {value:#x}, {width} {bytes}, at address {gpa}")?;
            }
        }
        write!(f, ", where nothing is (rip {rip:#x})")
    }
}

/// Returns the name of a `KVM_INTERNAL_ERROR_*` number (linux/kvm.h).
#[must_use]
pub const fn internal_error_name(suberror: u32) -> &'static str {
    match suberror {
        1 => "an instruction that it cannot emulate (KVM_INTERNAL_ERROR_EMULATION)",
        2 => "an exception while another was being delivered (KVM_INTERNAL_ERROR_SIMUL_EX)",
        3 => "an exit while an event was being delivered (KVM_INTERNAL_ERROR_DELIVERY_EV)",
        4 => {
            "an exit reason of the hardware that it does not know (KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON)"
        }
        _ => "an internal error without a name",
    }
}

#[cfg(test)]
mod tests {
    use kvm_sys_wrap::Port;

    use super::*;

    #[test]
    fn nothing_but_halt_power_off_and_code_0_is_a_success() {
        let ends = [
            End::Halt { interrupts: true },
            End::Halt { interrupts: false },
            End::Ring3Exit,
            End::Exit { code: 0 },
            End::Exit { code: 7 },
            End::PowerOff,
            End::Reset,
            End::Suspend(Suspend::NoAlarm),
            End::Shutdown,
            End::InternalError { suberror: 1, data: vec![] },
            End::FailEntry { reason: 0x8000_0021, cpu: 0 },
            End::Exception { vector: 14, frame: None },
            End::SystemEvent { kind: 1 },
            End::TimeLimit(Duration::from_secs(1)),
            End::ExitLimit(5),
            End::Interrupted,
            End::Unserved(Exit::Other(99)),
        ];
        let successes: Vec<_> = ends
            .iter()
            .filter(|e| e.verdict(HaltPolicy::Success, ResetPolicy::Failure) == Verdict::Success)
            .map(End::name)
            .collect();
        assert_eq!(successes, ["halt", "halt", "exit", "power-off"]);
        assert_eq!(End::Ring3Exit.verdict(HaltPolicy::Hung, ResetPolicy::Failure), Verdict::Hung);
        assert_eq!(End::Reset.verdict(HaltPolicy::Hung, ResetPolicy::Success), Verdict::Success);
    }

    #[test]
    fn an_end_is_one_sentence() {
        let frame =
            ExceptionFrame { error_code: Some(0x14), rip: 0x10_0010, cs: 0x23, rflags: 2, rsp: 0, ss: 0x1b };
        assert_eq!(
            End::Exception { vector: 14, frame: Some(frame) }.to_string(),
            "exception 14 in ring 3: #PF, page fault, error code 0x14, at 0x100010"
        );
        let access =
            UnmappedAccess { at: BusAddress::Port(Port(0x99)), width: 1, written: Some(5), rip: 0x1000 };
        assert_eq!(access.to_string(), "write of 0x5, 1 byte, to port 0x99, where nothing is (rip 0x1000)");
    }
}
