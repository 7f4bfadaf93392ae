//! Ports that are there and do nothing: reads give ones, writes vanish.
//!
//! A PC's bus answers so wherever nothing is. These have a name, so that a machine which stops at accesses to nothing does
//! not stop at them: the diagnostic port 0x80 and port 0xed, to which software writes for the time that it takes, and the
//! configuration ports of a PCI bus that is not there.

use std::io;

use crate::devices::device::{Action, Device, Guest};

/// Some such ports.
#[derive(Debug)]
pub struct NullPorts {
    length: u64,
}

impl NullPorts {
    /// `length` of them.
    #[must_use]
    pub const fn new(length: u64) -> Self {
        Self { length }
    }
}

impl Device for NullPorts {
    fn length(&self) -> u64 {
        self.length
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        data.fill(0xff);
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, _: &[u8], _: &dyn Guest) -> io::Result<Action> {
        Ok(Action::Continue)
    }
}
