//! Call sequence of a machine as data: every call that [`Machine::build`](crate::machine::Machine::build) and
//! [`run`](crate::machine::Machine::run) make, in order, with its arguments.
//!
//! Nothing here calls KVM. A test (`tests/flow_on_kvm.rs`) compares each step with what a
//! [`CallObserver`](kvm_sys_wrap::CallObserver) saw. Values that only the host knows (descriptors, host addresses, sizes) are
//! described. Writes to guest memory and timers are steps as well, although they are not KVM calls.

mod interrupts;
mod memory;
mod steps;

use std::borrow::Cow;
use std::fmt;

use kvm_sys_wrap::Call;

pub use steps::flow;

/// Step of a machine's call sequence: a system call or another action, and the reason for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceStep {
    /// System call or other action of the step.
    pub act: CallAction,
    /// Argument of the system call.
    pub argument: Argument,
    /// Direction of the argument: into the kernel, out of it, or both.
    pub direction: ArgumentDirection,
    /// Description of the call's result.
    pub returns: Cow<'static, str>,
    /// Purpose of the step for the machine.
    pub why: Cow<'static, str>,
    /// Number of times that the step is done: once, or repeatedly during the run.
    pub times: CallFrequency,
}

/// Action of a step: a system call, a copy to guest memory, or a timer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallAction {
    /// System call of the KVM flow.
    Call(Call),
    /// Copy to guest memory, which is mapped in this process.
    WriteMemory,
    /// `timer_create` and `timer_settime`, for a signal that ends `KVM_RUN`.
    SetTimer,
}

/// Argument of a system call or action, to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// The call has no argument.
    None,
    /// Value of the argument, as an observer of system calls sees it.
    Value(String),
    /// Description of a value that is only known at the call.
    Later(String),
    /// Structure, with the fields that matter.
    Struct {
        /// Name of the structure in the kernel's headers.
        name: &'static str,
        /// Fields that matter for the call.
        fields: Vec<Field>,
    },
}

/// Field of an argument's structure, to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Name of the field in the kernel's headers.
    pub name: &'static str,
    /// Value of the field, or its description.
    pub value: Value,
}

/// Value of a field: a number, or words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Number that is known before the call.
    Number(u64),
    /// Description of a nested structure, or of a value that only the host knows.
    Words(String),
}

/// Direction of an argument's data: into the kernel, out of it, or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentDirection {
    /// The call passes no data.
    None,
    /// Data go into the kernel (`_IOW`) or into guest memory.
    Into,
    /// Data come out of the kernel (`_IOR`).
    OutOf,
    /// Data go into the kernel and come out of it (`_IOWR`).
    Both,
}

/// Number of times that a step is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFrequency {
    /// The step is done once.
    Once,
    /// The step is repeated until the guest ends.
    UntilTheEnd,
    /// The step is done during the run, after each event of this kind.
    Whenever(&'static str),
}

impl CallAction {
    /// Returns the name of the call or action.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call(call) => call.name(),
            Self::WriteMemory => "write guest memory",
            Self::SetTimer => "set a timer",
        }
    }

    /// Returns the manual page or the section of api.rst; empty if there is none.
    #[must_use]
    pub fn source(self) -> String {
        match self {
            Self::Call(call) if call.section().contains('(') => call.section().to_owned(),
            Self::Call(call) => format!("api.rst {}", call.section()),
            Self::WriteMemory => String::new(),
            Self::SetTimer => "timer_create(2)".to_owned(),
        }
    }
}

impl ArgumentDirection {
    /// Returns an arrow, with the kernel on the right.
    #[must_use]
    pub const fn arrow(self) -> &'static str {
        match self {
            Self::None => "--",
            Self::Into => "->",
            Self::OutOf => "<-",
            Self::Both => "<>",
        }
    }

    /// Returns the name of the direction.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Into => "in",
            Self::OutOf => "out",
            Self::Both => "in and out",
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) if *number < 10 => write!(f, "{number}"),
            Self::Number(number) => write!(f, "{number:#x}"),
            Self::Words(words) => f.write_str(words),
        }
    }
}
