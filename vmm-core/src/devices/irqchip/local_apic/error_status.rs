//! Error status register (SDM vol. 3, 11.5.3): errors are collected, and shown by the next write of the register.

use serde::{Deserialize, Serialize};

/// Software sent a message with a vector below 16.
pub(super) const SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// A message or local interrupt with a vector below 16 arrived.
pub(super) const RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
/// Software accessed a register that does not exist.
pub(super) const ILLEGAL_REGISTER: u32 = 1 << 7;

/// Error status register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct ErrorStatus {
    /// Value of the register.
    shown: u32,
    /// Errors since the register was written.
    collected: u32,
}

impl ErrorStatus {
    /// Records an error, and returns true if it is the first one since the register was written: then it can interrupt.
    pub(super) const fn record(&mut self, error: u32) -> bool {
        let is_first = self.collected == 0;
        self.collected |= error;
        is_first
    }

    /// Shows the errors since the last write, as a write of any value does.
    pub(super) const fn write(&mut self) {
        self.shown = self.collected;
        self.collected = 0;
    }

    /// Returns the value of the register.
    pub(super) const fn value(&self) -> u32 {
        self.shown
    }
}
