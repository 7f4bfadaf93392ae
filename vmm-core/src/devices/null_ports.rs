//! Ports without a function: reads return ones, writes are ignored.
//!
//! Unmapped ports behave in the same way. These are devices, so that a machine that stops at unmapped accesses does not stop
//! at them: the diagnostic port 0x80 and port 0xed, which software writes to for a delay, and the configuration ports of an
//! absent PCI bus.

use std::io;

use crate::Port;
use crate::devices::device::{Action, Device, Guest};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the diagnostic port.
pub(super) const DIAGNOSTIC: DeviceInfo = DeviceInfo {
    name: "legacy-ports",
    title: "the diagnostic port",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x80))),
    length: 1,
    irqs: &[],
    purpose: "takes writes that only cost time",
};

/// Declaration of the delay port.
pub(super) const DELAY: DeviceInfo = DeviceInfo {
    name: "legacy-ports",
    title: "the delay port",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0xed))),
    length: 1,
    irqs: &[],
    purpose: "takes writes that only cost time",
};

/// Declaration of the PCI bus's address port.
pub(super) const PCI_ADDRESS: DeviceInfo = DeviceInfo {
    name: "legacy-ports",
    title: "the PCI address port",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0xcf8))),
    length: 1,
    irqs: &[],
    purpose: "says that there is no PCI bus",
};

/// Declaration of the PCI bus's data ports.
pub(super) const PCI_DATA: DeviceInfo = DeviceInfo {
    name: "legacy-ports",
    title: "the PCI data ports",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0xcfa))),
    length: 6,
    irqs: &[],
    purpose: "says that there is no PCI bus",
};

/// Range of ports without a function.
#[derive(Debug)]
pub struct NullPorts {
    length: u64,
}

impl NullPorts {
    /// Creates a range of `length` ports without a function.
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

    fn save(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}
