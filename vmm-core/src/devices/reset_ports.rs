//! Reset control register of the chipset, port 0xcf9, and system control port A, port 0x92.
//!
//! Port 0xcf9 (Intel 82371SB data sheet, 4.1.3, and later chipsets): a change of bit 2 from 0 to 1 resets. Bit 1 selects a
//! reset of the CPU or of the machine, which is the same here. ACPI's FADT names this register.
//!
//! Port 0x92 is from IBM's PS/2: bit 0 resets the CPU, bit 1 is A20. A20 is always on, because KVM does not emulate it.

use std::io;

use crate::Port;
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the reset control register.
pub(super) const RESET_CONTROL: DeviceInfo = DeviceInfo {
    name: "power",
    title: "the reset control register",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0xcf9))),
    length: 1,
    irqs: &[],
    purpose: "OUT of 6 resets",
};

/// Declaration of system control port A.
pub(super) const SYSTEM_CONTROL: DeviceInfo = DeviceInfo {
    name: "legacy-ports",
    title: "system control port A",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x92))),
    length: 1,
    irqs: &[],
    purpose: "A20 is on; OUT with bit 0 set resets",
};

/// Resets when it changes from 0 to 1.
const RESET: u8 = 1 << 2;
/// Bits that keep the written value: full reset, hard reset.
const WRITABLE_BITS: u8 = 0x0a;

/// Reset control register, port 0xcf9.
#[derive(Debug, Default)]
pub struct ResetControl {
    value: u8,
}

impl Device for ResetControl {
    fn length(&self) -> u64 {
        RESET_CONTROL.length
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        if let Some(byte) = data.first_mut() {
            *byte = self.value;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        let Some(byte) = data.first() else { return Ok(Action::Continue) };
        self.value = byte & WRITABLE_BITS;
        Ok(if byte & RESET == 0 { Action::Continue } else { Action::Reset })
    }

    fn save(&self) -> Option<Vec<u8>> {
        to_bytes(&self.value)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        self.value = from_bytes(state)?;
        Ok(())
    }
}

/// Resets the CPU.
const FAST_RESET: u8 = 1 << 0;
/// Enables address line 20.
const A20: u8 = 1 << 1;

/// System control port A, port 0x92.
#[derive(Debug)]
pub struct SystemControl {
    value: u8,
}

impl Default for SystemControl {
    fn default() -> Self {
        Self { value: A20 }
    }
}

impl Device for SystemControl {
    fn length(&self) -> u64 {
        SYSTEM_CONTROL.length
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        if let Some(byte) = data.first_mut() {
            *byte = self.value;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        let Some(byte) = data.first() else { return Ok(Action::Continue) };
        let reset = byte & FAST_RESET & !self.value != 0;
        self.value = *byte;
        Ok(if reset { Action::Reset } else { Action::Continue })
    }

    fn save(&self) -> Option<Vec<u8>> {
        to_bytes(&self.value)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        self.value = from_bytes(state)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::guest;

    fn write(device: &mut dyn Device, byte: u8) -> Action {
        device.write(0, &[byte], &guest()).unwrap()
    }

    #[test]
    fn the_sequence_of_linux_and_the_value_of_the_fadt() {
        for (prepare, go) in [(0x02, 0x06), (0x0a, 0x0e)] {
            let mut device = ResetControl::default();
            assert_eq!(write(&mut device, prepare), Action::Continue);
            let mut data = [0xff];
            device.read(0, &mut data, &guest()).unwrap();
            assert_eq!(data, [prepare]);
            assert_eq!(write(&mut device, go), Action::Reset);
        }
        assert_eq!(write(&mut ResetControl::default(), 0x06), Action::Reset);
    }

    #[test]
    fn a20_without_a_reset() {
        let mut device = SystemControl::default();
        assert_eq!(write(&mut device, A20), Action::Continue);
        assert_eq!(write(&mut device, A20 | FAST_RESET), Action::Reset);
    }
}
