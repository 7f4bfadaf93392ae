//! Debug console: prints every byte that is written to it. Bochs and QEMU have it on port 0xe9.
//!
//! A read returns 0xe9, by which guests detect it (QEMU, `hw/char/debugcon.c`).

use std::io::{self, Write};

use crate::Port;
use crate::devices::console::Output;
use crate::devices::device::{Action, Device, Guest};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "debug-console",
    title: "the debug console",
    location: DeviceLocation::Movable(BusAddress::Port(Port(0xe9))),
    length: 1,
    irqs: &[],
    purpose: "OUT of a byte prints it",
};

const SIGNATURE: u8 = 0xe9;

/// Debug console of Bochs and QEMU: each byte that the guest writes is printed.
#[derive(Debug)]
pub struct DebugConsole {
    output: Output,
}

impl DebugConsole {
    /// Creates a console that prints to `output`.
    #[must_use]
    pub fn new(output: Output) -> Self {
        Self { output }
    }
}

impl Device for DebugConsole {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        if let Some(first) = data.first_mut() {
            *first = SIGNATURE;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, _: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        // The register has one byte and takes the lowest one of a wider OUT.
        self.output.write_all(data.get(..1).unwrap_or_default())?;
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::test_doubles::CapturedOutput;
    use crate::devices::tests::guest;

    #[test]
    fn bytes_come_out_as_written() {
        let shared = CapturedOutput::default();
        let mut console = DebugConsole::new(Output::new(shared.clone()));
        console.write(0, b"A", &guest()).unwrap();
        console.write(0, &[0xff, 1, 2, 3], &guest()).unwrap();
        assert_eq!(shared.bytes(), [b'A', 0xff]);
        let mut answer = [0xff; 2];
        console.read(0, &mut answer, &guest()).unwrap();
        assert_eq!(answer, [0xe9, 0xff]);
    }
}
