//! The ways to kill vmm-cli, and how it has to end then.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// What Ctrl-A x is after more keys than a serial port can hold, to a guest that reads none of them.
pub(super) const KEYS: &[u8] = &{
    let mut keys = [b'k'; 102];
    keys[100] = 0x01;
    keys[101] = b'x';
    keys
};

/// vmm-cli's exit status after Ctrl-C and the like.
const INTERRUPTED: i32 = 130;
/// vmm-cli's exit status when it cannot print.
const HOST_TROUBLE: i32 = 106;

/// A way to kill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Way {
    /// SIGINT, as Ctrl-C sends it where the terminal is not raw.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGHUP, with the terminal still there.
    HangUp,
    /// SIGQUIT.
    Quit,
    /// [`KEYS`], typed.
    Type,
    /// The terminal's window is closed.
    Close,
    /// SIGKILL, after which a process can do nothing more.
    Kill,
}

impl Way {
    pub(super) const ALL: [Self; 7] =
        [Self::Interrupt, Self::Terminate, Self::HangUp, Self::Quit, Self::Type, Self::Close, Self::Kill];

    /// The signal that vmm-cli gets; none if keys are typed.
    pub(super) fn signal(self) -> Option<Signal> {
        match self {
            Self::Interrupt => Some(Signal::INT),
            Self::Terminate => Some(Signal::TERM),
            // A shell passes on the signal that it gets when its terminal goes away.
            Self::HangUp | Self::Close => Some(Signal::HUP),
            Self::Quit => Some(Signal::QUIT),
            Self::Kill => Some(Signal::KILL),
            Self::Type => None,
        }
    }

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::HangUp => "SIGHUP",
            Self::Quit => "SIGQUIT",
            Self::Type => "Ctrl-A x",
            Self::Close => "closed terminal",
            Self::Kill => "SIGKILL",
        }
    }

    /// Whether vmm-cli may end so.
    pub(super) fn allows(self, status: ExitStatus) -> bool {
        // The signal itself ends a process that has not got so far as to watch for it.
        let by_signal = status
            .signal()
            .is_some_and(|number| self.signal().is_some_and(|signal| signal.as_raw() == number));
        let by_itself = match self {
            Self::Interrupt | Self::Terminate | Self::HangUp | Self::Quit | Self::Type => {
                status.code() == Some(INTERRUPTED)
            }
            // It may find out by itself, when it prints, before it gets the signal.
            Self::Close => matches!(status.code(), Some(INTERRUPTED | HOST_TROUBLE)),
            Self::Kill => false,
        };
        by_signal || by_itself
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As wait(2) has it.
    fn code(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn each_way_has_its_ends() {
        for way in Way::ALL {
            assert_eq!(way.allows(code(130)), way != Way::Kill, "{way:?}");
            assert_eq!(way.allows(code(106)), way == Way::Close, "{way:?}");
            for wrong in [0, 1, 100, 101, 102] {
                assert!(!way.allows(code(wrong)), "{way:?}");
            }
            let number = way.signal().map_or(0, Signal::as_raw);
            for signal in [1, 2, 3, 6, 9, 11, 15] {
                assert_eq!(way.allows(ExitStatus::from_raw(signal)), signal == number, "{way:?} {signal}");
            }
        }
    }
}
