//! The flow as data: every call that [`Machine::build`](crate::machine::Machine::build) and
//! [`run`](crate::machine::Machine::run) make for one machine, in order, with the values that they will be given.
//!
//! It is what a figure of the flow is drawn from. Nothing here calls KVM; a test on a real one
//! (`tests/flow_on_kvm.rs`) holds each line against what a [`CallObserver`](kvm_sys_wrap::CallObserver) saw. What only
//! the host knows (descriptors, host addresses, sizes) is described in words.
//!
//! Two things that a machine needs are no calls and stand in the flow all the same: writes to guest memory, which is
//! ours as much as the guest's, and the timer that ends a run that takes too long.

mod interrupts;
mod memory;
mod steps;

use std::borrow::Cow;
use std::fmt;

use kvm_sys_wrap::Call;

pub use steps::flow;

/// One line of the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequenceStep {
    /// What is done.
    pub act: CallAction,
    /// With what.
    pub argument: Argument,
    /// Which way the argument goes.
    pub direction: ArgumentDirection,
    /// What comes back, in words.
    pub returns: Cow<'static, str>,
    /// What it is for.
    pub why: Cow<'static, str>,
    /// How often.
    pub times: CallFrequency,
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallAction {
    /// A system call.
    Call(Call),
    /// Bytes go into guest memory: an ordinary copy, since the memory is mapped in our process too.
    WriteMemory,
    /// `timer_create` and `timer_settime`: a signal that ends `KVM_RUN`.
    SetTimer,
}

/// The argument of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// None.
    None,
    /// A value, as an observer of calls sees it.
    Value(String),
    /// A value that is only known when it is made, in words.
    Later(String),
    /// A structure: its name in the kernel's headers, and the fields that matter.
    Struct {
        /// Its name.
        name: &'static str,
        /// Its fields.
        fields: Vec<Field>,
    },
}

/// A field of a structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name in the kernel's headers.
    pub name: &'static str,
    /// Its value.
    pub value: Value,
}

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number that is known beforehand.
    Number(u64),
    /// A structure in the structure, or something that only the host knows, in words.
    Words(String),
}

/// Which way an argument goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentDirection {
    /// There is none.
    None,
    /// Into the kernel (or into guest memory): `_IOW`.
    Into,
    /// Out of the kernel: `_IOR`.
    OutOf,
    /// Both ways: `_IOWR`.
    Both,
}

/// How often a step happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFrequency {
    /// Once.
    Once,
    /// Again and again until the guest ends.
    UntilTheEnd,
    /// During the run, whenever this happens.
    Whenever(&'static str),
}

impl CallAction {
    /// The name of the call, or of what is done instead.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Call(call) => call.name(),
            Self::WriteMemory => "write guest memory",
            Self::SetTimer => "set a timer",
        }
    }

    /// Where it is documented.
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
    /// An arrow, seen from us: the kernel is on the right.
    #[must_use]
    pub const fn arrow(self) -> &'static str {
        match self {
            Self::None => "--",
            Self::Into => "->",
            Self::OutOf => "<-",
            Self::Both => "<>",
        }
    }

    /// The direction in words.
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
