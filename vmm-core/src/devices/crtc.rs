//! CRT controller registers of a PC's display, without a display: index port 0x3d4 and data port 0x3d5.
//!
//! Kernels that write text to the screen keep the cursor position here, and some rely on reading it back. All ones, as from an
//! absent device, would be a cursor outside the screen. The text itself goes to ordinary memory at 0xb8000 and is not shown. (IBM VGA Technical Reference, "CRT Controller Registers".)

use std::io;

use serde::{Deserialize, Serialize};

use crate::Port;
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "legacy-ports",
    title: "the display registers",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x3d4))),
    length: 2,
    irqs: &[],
    purpose: "keeps the cursor of a display that is not there",
};

/// Number of registers: the VGA's last is 0x18.
const REGISTERS: usize = 0x19;

/// CRT controller registers of a PC's display, without a display.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Crtc {
    index: u8,
    registers: [u8; REGISTERS],
}

impl Device for Crtc {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        let value = self.registers.get(usize::from(self.index)).copied();
        for (port, byte) in (offset..).zip(data) {
            *byte = if port == 0 { self.index } else { value.unwrap_or(0xff) };
        }
        Ok(Action::Continue)
    }

    /// Writes a register. A 16-bit write to the first port is index and value.
    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        for (port, byte) in (offset..).zip(data) {
            if port == 0 {
                self.index = *byte;
            } else if let Some(register) = self.registers.get_mut(usize::from(self.index)) {
                *register = *byte;
            }
        }
        Ok(Action::Continue)
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

    fn read(crtc: &mut Crtc) -> u8 {
        let mut data = [0xaa];
        crtc.read(1, &mut data, &guest()).unwrap();
        data[0]
    }

    #[test]
    fn the_cursor_starts_at_the_top_and_keeps_its_place() {
        let mut crtc = Crtc::default();
        crtc.write(0, &[0x0e], &guest()).unwrap();
        assert_eq!(read(&mut crtc), 0);
        crtc.write(1, &[0x07], &guest()).unwrap();
        crtc.write(0, &[0x0f, 0xcf], &guest()).unwrap();
        assert_eq!(read(&mut crtc), 0xcf);
        crtc.write(0, &[0x0e], &guest()).unwrap();
        assert_eq!(read(&mut crtc), 0x07);
    }

    #[test]
    fn there_are_no_registers_behind_the_last() {
        let mut crtc = Crtc::default();
        crtc.write(0, &[0xff, 1], &guest()).unwrap();
        assert_eq!(read(&mut crtc), 0xff);
        let mut both = [0; 2];
        crtc.read(0, &mut both, &guest()).unwrap();
        assert_eq!(both, [0xff, 0xff]);
    }
}
