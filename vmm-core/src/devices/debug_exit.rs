//! Exit port: a write ends the run, as with QEMU's `isa-debug-exit`.
//!
//! QEMU ends with the status `value * 2 + 1`, which can never be 0; test kernels therefore define one value as
//! success. The configuration lists such values; all others result in QEMU's status as the guest's exit code.

use std::io;

use crate::Port;
use crate::devices::device::{Action, Device, Guest};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "debug-exit",
    title: "the exit port",
    location: DeviceLocation::Movable(BusAddress::Port(Port(0xf4))),
    // As with QEMU's `isa-debug-exit,iosize=0x04`.
    length: 4,
    irqs: &[],
    purpose: "OUT ends the run with a code",
};

/// Exit port: a write of the guest ends the run, as with QEMU's isa-debug-exit.
#[derive(Debug)]
pub struct DebugExit {
    success: Vec<u32>,
}

impl DebugExit {
    /// Creates an exit port on which the values `success` end the run with code 0.
    #[must_use]
    pub fn new(success: Vec<u32>) -> Self {
        Self { success }
    }
}

impl Device for DebugExit {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        // As in QEMU: reads return 0, so a guest that probes finds a device.
        data.fill(0);
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        let value = data.iter().take(4).rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let code = if self.success.contains(&value) { 0 } else { value.wrapping_mul(2) | 1 };
        Ok(Action::Exit(code))
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::guest;

    #[test]
    fn codes_are_those_of_qemu_but_for_success() {
        let mut port = DebugExit::new(vec![0x10]);
        let mut end = |data: &[u8]| port.write(0, data, &guest()).unwrap();
        assert_eq!(end(&[0x10]), Action::Exit(0));
        assert_eq!(end(&[0x10, 0, 0, 0]), Action::Exit(0));
        assert_eq!(end(&[0]), Action::Exit(1));
        assert_eq!(end(&[0x11]), Action::Exit(0x23));
        assert_eq!(end(&[0xff, 0xff, 0xff, 0xff]), Action::Exit(u32::MAX));
    }
}
