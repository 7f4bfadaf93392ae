//! Signals and other stop requests for vmm-cli, and the exit statuses that each allows.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// Typed keys: more than a serial port buffers for a guest that reads none, then Ctrl-A x.
const KEYS: &[u8] = &{
    let mut keys = [b'k'; 102];
    keys[100] = 0x01;
    keys[101] = b'x';
    keys
};

/// Typed Ctrl-C.
const CTRL_C: &[u8] = b"\x03";

/// Exit status of vmm-cli after SIGINT, SIGTERM, SIGHUP, SIGQUIT, Ctrl-C or Ctrl-A x.
const STATUS_INTERRUPTED: i32 = 130;
/// Exit status of vmm-cli when it cannot write its output.
const STATUS_HOST_ERROR: i32 = 106;

/// Request that ends vmm-cli.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum StopSignal {
    /// SIGINT, as sent by Ctrl-C on a terminal that is not raw.
    Sigint,
    /// SIGTERM.
    Sigterm,
    /// SIGHUP, while the terminal stays open.
    Sighup,
    /// SIGQUIT.
    Sigquit,
    /// [`KEYS`] typed on the terminal, if it is raw.
    CtrlAX,
    /// Ctrl-C typed on the terminal, if it sends signals.
    CtrlC,
    /// Closing of the terminal.
    TerminalClosed,
    /// SIGKILL, which a process cannot handle.
    Sigkill,
    /// SIGTERM, and SIGKILL some milliseconds later, while vmm-cli ends.
    SigtermSigkill,
}

impl StopSignal {
    /// All variants, in the order in which they are used.
    pub(super) const ALL: [Self; 9] = [
        Self::Sigint,
        Self::Sigterm,
        Self::Sighup,
        Self::Sigquit,
        Self::CtrlAX,
        Self::CtrlC,
        Self::TerminalClosed,
        Self::Sigkill,
        Self::SigtermSigkill,
    ];

    /// Returns the typed keys, or `None` if none are typed.
    pub(super) fn keys(self) -> Option<&'static [u8]> {
        match self {
            Self::CtrlAX => Some(KEYS),
            Self::CtrlC => Some(CTRL_C),
            Self::Sigint
            | Self::Sigterm
            | Self::Sighup
            | Self::Sigquit
            | Self::TerminalClosed
            | Self::Sigkill
            | Self::SigtermSigkill => None,
        }
    }

    /// Returns the signal sent to vmm-cli first, or `None` if keys are typed.
    pub(super) fn signal(self) -> Option<Signal> {
        match self {
            Self::Sigint => Some(Signal::INT),
            Self::Sigterm | Self::SigtermSigkill => Some(Signal::TERM),
            // A shell sends SIGHUP on to its jobs when its terminal is closed.
            Self::Sighup | Self::TerminalClosed => Some(Signal::HUP),
            Self::Sigquit => Some(Signal::QUIT),
            Self::Sigkill => Some(Signal::KILL),
            Self::CtrlAX | Self::CtrlC => None,
        }
    }

    /// Returns the name for messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sigint => "SIGINT",
            Self::Sigterm => "SIGTERM",
            Self::Sighup => "SIGHUP",
            Self::Sigquit => "SIGQUIT",
            Self::CtrlAX => "Ctrl-A x",
            Self::CtrlC => "Ctrl-C",
            Self::TerminalClosed => "closed terminal",
            Self::Sigkill => "SIGKILL",
            Self::SigtermSigkill => "SIGTERM and SIGKILL",
        }
    }

    /// Returns true if vmm-cli may end without cleaning up.
    pub(super) fn kills(self) -> bool {
        matches!(self, Self::Sigkill | Self::SigtermSigkill)
    }

    /// Returns true if vmm-cli may end with this status.
    pub(super) fn allows(self, status: ExitStatus) -> bool {
        // Before vmm-cli has installed its handlers, the signal's default action ends it.
        let sent = if self == Self::CtrlC { Some(Signal::INT) } else { self.signal() };
        let by_signal = status.signal().is_some_and(|number| {
            sent.is_some_and(|signal| signal.as_raw() == number)
                || self.kills() && number == Signal::KILL.as_raw()
        });
        let by_itself = match self {
            Self::Sigint
            | Self::Sigterm
            | Self::Sighup
            | Self::Sigquit
            | Self::CtrlAX
            | Self::CtrlC
            | Self::SigtermSigkill => status.code() == Some(STATUS_INTERRUPTED),
            // Writing to the closed terminal may fail before SIGHUP arrives.
            Self::TerminalClosed => matches!(status.code(), Some(STATUS_INTERRUPTED | STATUS_HOST_ERROR)),
            Self::Sigkill => false,
        };
        by_signal || by_itself
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes an exit status as wait(2) does.
    fn code(code: i32) -> ExitStatus {
        ExitStatus::from_raw(code << 8)
    }

    #[test]
    fn each_signal_allows_its_statuses() {
        for stop in StopSignal::ALL {
            assert_eq!(stop.allows(code(130)), stop != StopSignal::Sigkill, "{stop:?}");
            assert_eq!(stop.allows(code(106)), stop == StopSignal::TerminalClosed, "{stop:?}");
            for wrong in [0, 1, 100, 101, 102] {
                assert!(!stop.allows(code(wrong)), "{stop:?}");
            }
            let number = stop.signal().map_or(if stop == StopSignal::CtrlC { 2 } else { 0 }, Signal::as_raw);
            for signal in [1, 2, 3, 6, 9, 11, 15] {
                let sent = signal == number || signal == 9 && stop.kills();
                assert_eq!(stop.allows(ExitStatus::from_raw(signal)), sent, "{stop:?} {signal}");
            }
        }
    }
}
