//! Exit statuses of `vmm-cli`. The table is stable, and each class has its own number.
//!
//! The statuses 1 to 99 are the guest's own exit codes, so that a script can tell the guest's result from ours.

use std::process::ExitCode;

use serde::{Deserialize, Serialize};

/// Exit status of `vmm-cli`, one for each class of results and errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// Status 0: HLT (unless configured otherwise), exit code 0, or every line of `[expect]` met.
    Success,
    /// Status 1 to 99: the guest ended the run with this code; codes above 99 are reported as 99.
    Guest(u32),
    /// Status 100: the guest crashed, by SHUTDOWN, INTERNAL_ERROR, FAIL_ENTRY, an exception in ring 3, or an unmapped access
    /// where `unmapped = "stop"`.
    Crashed,
    /// Status 101: a bug in `vmm-cli`; Rust's own status for a panic.
    Bug,
    /// Status 102: the guest hung: time limit, exit limit, or HLT where `halt = "hung"`.
    Hung,
    /// Status 103: the run did not meet `[expect]`.
    Unexpected,
    /// Status 104: this host's KVM cannot do what was asked.
    Refused,
    /// Status 105: a mistake in the configuration, the guest file or the command line.
    Configuration,
    /// Status 106: an error of the host: no `/dev/kvm`, no permission, out of memory, an I/O error.
    Host,
    /// Status 130: ended by Ctrl-C (128 + SIGINT, as shells report it).
    Interrupted,
}

impl Status {
    /// Returns the number that the process exits with.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Guest(code) => u8::try_from(code.min(99)).unwrap_or(99),
            Self::Crashed => 100,
            Self::Bug => 101,
            Self::Hung => 102,
            Self::Unexpected => 103,
            Self::Refused => 104,
            Self::Configuration => 105,
            Self::Host => 106,
            Self::Interrupted => 130,
        }
    }
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_never_collide() {
        let classes = [
            Status::Success,
            Status::Guest(1),
            Status::Guest(99),
            Status::Crashed,
            Status::Bug,
            Status::Hung,
            Status::Unexpected,
            Status::Refused,
            Status::Configuration,
            Status::Host,
            Status::Interrupted,
        ];
        let mut codes: Vec<u8> = classes.iter().map(|status| status.code()).collect();
        codes.dedup();
        assert_eq!(codes, [0, 1, 99, 100, 101, 102, 103, 104, 105, 106, 130]);
    }

    #[test]
    fn a_guest_code_stays_below_our_own() {
        assert_eq!(Status::Guest(42).code(), 42);
        assert_eq!(Status::Guest(100).code(), 99);
        assert_eq!(Status::Guest(u32::MAX).code(), 99);
    }
}
