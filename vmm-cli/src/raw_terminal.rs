//! Raw mode of the terminal: every key goes to the guest as it is typed, Ctrl-C too.
//!
//! A guest that gdb controls does not get Ctrl-C: it may be stopped, and nobody would read the key that is to end the run.
//!
//! Ctrl-A is an escape, as in QEMU: Ctrl-A x ends the run, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A h shows help. The
//! terminal's settings are restored when the value is dropped: at the end of the run, on a signal that ends it, and in
//! a panic.

use std::io::{self, IsTerminal};

use rustix::termios::{
    LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use vmm_core::kvm_sys_wrap::{request_termination, termination_requested};

use crate::stderr;

/// Ctrl-A.
const ESCAPE: u8 = 0x01;
/// Value of a special character that no key has (`_POSIX_VDISABLE`).
const DISABLED: u8 = 0;

/// Terminal in raw mode.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    before: Termios,
    /// True if the last key was Ctrl-A.
    escaped: bool,
}

impl RawTerminal {
    /// Puts the terminal on standard input into raw mode. Returns `None` if that is no terminal. With `has_signal_keys`, Ctrl-C and
    /// Ctrl-\\ send signals.
    pub(crate) fn enter(has_signal_keys: bool) -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        // Not all guests end their lines with a carriage return, and neither do our own messages.
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        if has_signal_keys {
            raw.local_modes |= LocalModes::ISIG;
            // A process that Ctrl-Z stops would leave the terminal raw.
            raw.special_codes[SpecialCodeIndex::VSUSP] = DISABLED;
        }
        tcsetattr(&stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self { before, escaped: false })
    }

    /// Handles escapes in the first `count` bytes of `buffer`. Returns the number of bytes left for the guest.
    pub(crate) fn filter(&mut self, buffer: &mut [u8], count: usize) -> usize {
        let mut left = 0;
        for at in 0..count {
            let Some(&key) = buffer.get(at) else { break };
            let keep = match (std::mem::take(&mut self.escaped), key) {
                (false, ESCAPE) => {
                    self.escaped = true;
                    false
                }
                (false, _) | (true, ESCAPE) => true,
                (true, b'x' | b'X') => {
                    if termination_requested() {
                        // A second request ends the process at once.
                        self.restore();
                    }
                    request_termination();
                    false
                }
                (true, b'h' | b'?') => {
                    stderr::print_line(format_args!(
                        "\r\nCtrl-A x ends the run; Ctrl-A Ctrl-A sends Ctrl-A\r"
                    ));
                    false
                }
                (true, _) => true,
            };
            if let (true, Some(place)) = (keep, buffer.get_mut(left)) {
                *place = key;
                left += 1;
            }
        }
        left
    }

    /// Restores the terminal's settings.
    fn restore(&self) {
        // Ignored: a closed terminal has no settings to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}
