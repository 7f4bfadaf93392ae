//! Keyboard controller, an Intel 8042, without a keyboard; and system control port B.
//!
//! Kernels probe it and use it to reset the CPU. It executes its own commands. Commands for a keyboard or a mouse are ignored,
//! and the interface tests report that none is attached. Without a keyboard there are no interrupts. (IBM AT Technical Reference, "Keyboard Controller"; <https://wiki.osdev.org/I8042_PS/2_Controller>.)
//!
//! Port 0x61 lies between the two ports. On machines with KVM's PIT, the kernel answers it.

use std::io;

use serde::{Deserialize, Serialize};

use crate::Port;
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "i8042",
    title: "the keyboard controller",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x60))),
    // From the data port 0x60 to the command port 0x64.
    length: 5,
    irqs: &[],
    purpose: "a keyboard controller without keyboard; it can reset",
};

/// Offset of the data port from 0x60.
const DATA: u64 = 0;
const CONTROL_B: u64 = 1;
const COMMAND: u64 = 4;

/// Status: the output buffer is full.
const OUTPUT_FULL: u8 = 1 << 0;
/// Status: the self-test passed.
const SYSTEM: u8 = 1 << 2;
/// Status: the last write was to the command port.
const WAS_COMMAND: u8 = 1 << 3;
/// Status: the keyboard is not locked.
const NOT_LOCKED: u8 = 1 << 4;

/// Initial configuration byte: self-test passed, both interfaces disabled, no translation.
const CONFIGURATION: u8 = 0x34;
/// Initial output port: A20 on, CPU reset inactive.
const OUTPUT_PORT: u8 = 0x03;
/// Result of an interface test without a device: the clock line is stuck low.
const CLOCK_LOW: u8 = 0x01;
/// Port B: toggles with memory refresh; old software measures time with it.
const REFRESH: u8 = 1 << 4;
/// Port B: gate of the PIT's channel 2, and speaker.
const WRITABLE_B: u8 = 0x03;

/// Keyboard controller, an Intel 8042, without a keyboard.
#[derive(Debug, Serialize, Deserialize)]
pub struct I8042 {
    /// Byte in the output buffer.
    output: Option<u8>,
    /// Command that waits for its data byte.
    pending: Option<u8>,
    /// Memory of the controller; the first byte is its configuration.
    memory: [u8; 32],
    output_port: u8,
    was_command: bool,
    control_b: u8,
}

impl Default for I8042 {
    fn default() -> Self {
        let mut memory = [0; 32];
        if let Some(first) = memory.first_mut() {
            *first = CONFIGURATION;
        }
        Self {
            output: None,
            pending: None,
            memory,
            output_port: OUTPUT_PORT,
            was_command: false,
            control_b: 0,
        }
    }
}

impl I8042 {
    fn status(&self) -> u8 {
        let output = if self.output.is_some() { OUTPUT_FULL } else { 0 };
        let command = if self.was_command { WAS_COMMAND } else { 0 };
        output | command | SYSTEM | NOT_LOCKED
    }

    fn command(&mut self, command: u8) -> Action {
        self.was_command = true;
        self.pending = None;
        match command {
            0x20..=0x3f => self.output = self.memory.get(usize::from(command & 0x1f)).copied(),
            0x60..=0x7f | 0xd1..=0xd4 => self.pending = Some(command),
            0xa7 => self.configure(0x20, true),
            0xa8 => self.configure(0x20, false),
            0xa9 | 0xab => self.output = Some(CLOCK_LOW),
            0xaa => self.output = Some(0x55),
            0xad => self.configure(0x10, true),
            0xae => self.configure(0x10, false),
            0xc0 => self.output = Some(0),
            0xd0 => self.output = Some(self.output_port),
            // Pulses the lines of the output port whose bits are 0; bit 0 is the CPU's reset.
            0xf0..=0xff if command & 1 == 0 => return Action::Reset,
            _ => {}
        }
        Action::Continue
    }

    fn data(&mut self, byte: u8) -> Action {
        self.was_command = false;
        match self.pending.take() {
            Some(command @ 0x60..=0x7f) => {
                if let Some(place) = self.memory.get_mut(usize::from(command & 0x1f)) {
                    *place = byte;
                }
            }
            Some(0xd1) => {
                self.output_port = byte;
                if byte & 1 == 0 {
                    return Action::Reset;
                }
            }
            // Writes the byte to the output buffer, as if it came from the keyboard.
            Some(0xd2) => self.output = Some(byte),
            // The same for the mouse. There is no second interface, so the byte comes back inverted, which a driver detects.
            Some(0xd3) => self.output = Some(!byte),
            // Commands for the keyboard or the mouse.
            Some(_) | None => {}
        }
        Action::Continue
    }

    fn configure(&mut self, bit: u8, on: bool) {
        if let Some(configuration) = self.memory.first_mut() {
            *configuration = if on { *configuration | bit } else { *configuration & !bit };
        }
    }
}

impl Device for I8042 {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        let Some(byte) = data.first_mut() else { return Ok(Action::Continue) };
        match offset {
            DATA => *byte = self.output.take().unwrap_or(0),
            CONTROL_B => {
                self.control_b ^= REFRESH;
                *byte = self.control_b;
            }
            COMMAND => *byte = self.status(),
            _ => {}
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        let Some(&byte) = data.first() else { return Ok(Action::Continue) };
        Ok(match offset {
            DATA => self.data(byte),
            CONTROL_B => {
                self.control_b = self.control_b & REFRESH | byte & WRITABLE_B;
                Action::Continue
            }
            COMMAND => self.command(byte),
            _ => Action::Continue,
        })
    }

    fn save(&self) -> Option<Vec<u8>> {
        to_bytes(self)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        *self = from_bytes(state)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::guest;

    fn write(device: &mut I8042, offset: u64, byte: u8) -> Action {
        device.write(offset, &[byte], &guest()).unwrap()
    }

    fn read(device: &mut I8042, offset: u64) -> u8 {
        let mut data = [0xff];
        device.read(offset, &mut data, &guest()).unwrap();
        data[0]
    }

    #[test]
    fn the_steps_of_a_driver() {
        let mut device = I8042::default();
        assert_eq!(read(&mut device, COMMAND), SYSTEM | NOT_LOCKED);
        assert_eq!(write(&mut device, COMMAND, 0xaa), Action::Continue);
        assert_eq!(read(&mut device, COMMAND) & OUTPUT_FULL, 1);
        assert_eq!(read(&mut device, DATA), 0x55);
        assert_eq!(read(&mut device, COMMAND) & OUTPUT_FULL, 0);
        write(&mut device, COMMAND, 0x60);
        write(&mut device, DATA, 0x47);
        write(&mut device, COMMAND, 0x20);
        assert_eq!(read(&mut device, DATA), 0x47, "the configuration");
        write(&mut device, COMMAND, 0xa7);
        write(&mut device, COMMAND, 0x20);
        assert_eq!(read(&mut device, DATA), 0x67, "the second line is off");
        write(&mut device, COMMAND, 0xab);
        assert_eq!(read(&mut device, DATA), CLOCK_LOW, "no keyboard");
    }

    #[test]
    fn a20_is_asked_for_without_a_reset() {
        let mut device = I8042::default();
        write(&mut device, COMMAND, 0xd0);
        assert_eq!(read(&mut device, DATA), OUTPUT_PORT);
        write(&mut device, COMMAND, 0xd1);
        assert_eq!(write(&mut device, DATA, 0xdf), Action::Continue);
        assert_eq!(write(&mut device, DATA, 0xf2), Action::Continue, "for the keyboard that is not there");
        assert_eq!(read(&mut device, COMMAND) & OUTPUT_FULL, 0);
    }

    #[test]
    fn two_ways_to_reset() {
        assert_eq!(write(&mut I8042::default(), COMMAND, 0xfe), Action::Reset);
        assert_eq!(write(&mut I8042::default(), COMMAND, 0xff), Action::Continue, "a pulse on no line");
        let mut device = I8042::default();
        write(&mut device, COMMAND, 0xd1);
        assert_eq!(write(&mut device, DATA, 0x02), Action::Reset);
    }

    #[test]
    fn port_b_toggles() {
        let mut device = I8042::default();
        write(&mut device, CONTROL_B, 0xff);
        let (first, second) = (read(&mut device, CONTROL_B), read(&mut device, CONTROL_B));
        assert_eq!((first ^ second, first & 3), (REFRESH, 3));
    }
}
