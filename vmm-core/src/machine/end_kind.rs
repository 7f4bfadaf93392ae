//! Kinds of end of a run, by the names that configuration files and reports use.

use serde::Deserialize;

use crate::machine::end::End;

macro_rules! end_kinds {
    ($($(#[$attribute:meta])* $kind:ident = $name:literal,)*) => {
        /// Kind of an [`End`]: what ended a run, without its data.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
        #[cfg_attr(feature = "schemars", derive(schemars::JsonSchema))]
        pub enum EndKind {
            $($(#[$attribute])* #[serde(rename = $name)] $kind,)*
        }

        impl EndKind {
            /// Returns the name used in `[expect] end` and in reports.
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

impl End {
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
}
