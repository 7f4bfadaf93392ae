//! Serial port, a 16550: connects vm-superio's UART to the bus and to the console.
//!
//! The port has eight registers of one byte. A wider access goes to the following registers too, as on an ISA bus. Without
//! interrupts, input is fetched when the guest reads the line status or a byte. On a machine with interrupts it is fetched
//! when it arrives, and raises the port's interrupt.

use std::io;

use serde::{Deserialize, Serialize};
use vm_superio::serial::{Error as SerialError, NoEvents, Serial as Uart, SerialState};

use crate::Port;
use crate::devices::console::{Input, Output};
use crate::devices::device::{Action, Device, Guest, InputStatus, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::devices::irq::IrqLine;
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "serial",
    title: "the serial port",
    location: DeviceLocation::Movable(BusAddress::Port(Port(0x3f8))),
    length: 8,
    irqs: &[4],
    purpose: "16550 serial port",
};

/// Receiver buffer: offset 0.
const RECEIVER: u64 = 0;
/// Line status: offset 5. Bit 0: a byte has arrived.
const LINE_STATUS: u64 = 5;

/// Saved registers of the port.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedSerial(#[serde(with = "Registers")] SerialState);

/// Fields of a [`SerialState`], which has no serde implementation.
#[derive(Serialize, Deserialize)]
#[serde(remote = "SerialState")]
struct Registers {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

/// Serial port, a 16550, connected to the console.
pub struct Serial {
    uart: Uart<IrqLine, NoEvents, Output>,
    output: Output,
    input: Box<dyn Input>,
}

impl Serial {
    /// Creates a port that prints to `output`, receives from `input` and interrupts over `line`.
    #[must_use]
    pub fn new(output: Output, input: Box<dyn Input>, line: IrqLine) -> Self {
        Self { uart: Uart::new(line, output.clone()), output, input }
    }

    /// Fills the receiver with input that has arrived.
    fn fetch(&mut self) -> io::Result<InputStatus> {
        // The guest may wait for an answer to its prompt, so the prompt must be visible.
        self.output.sync()?;
        let mut buffer = [0; 64];
        let room = self.uart.fifo_capacity().min(buffer.len());
        let buffer = buffer.get_mut(..room).unwrap_or_default();
        let count = self.input.poll(buffer)?;
        if buffer.is_empty() {
            return Ok(InputStatus::Full);
        }
        if count == 0 {
            return Ok(if self.input.has_ended() { InputStatus::Closed } else { InputStatus::Consumed });
        }
        match self.uart.enqueue_raw_bytes(buffer.get(..count).unwrap_or_default()) {
            // In loopback mode the receiver is connected to the sender only, so input is lost, as on hardware.
            Ok(_) | Err(SerialError::FullFifo) => Ok(InputStatus::Consumed),
            Err(SerialError::IOError(error) | SerialError::Trigger(error)) => Err(error),
        }
    }
}

impl Device for Serial {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        for (register, byte) in (offset..DEVICE.length).zip(data) {
            if matches!(register, RECEIVER | LINE_STATUS) {
                self.fetch()?;
            }
            *byte = self.uart.read(register_number(register));
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        for (register, byte) in (offset..DEVICE.length).zip(data) {
            match self.uart.write(register_number(register), *byte) {
                Ok(()) | Err(SerialError::FullFifo) => {}
                Err(SerialError::IOError(error) | SerialError::Trigger(error)) => return Err(error),
            }
        }
        Ok(Action::Continue)
    }

    fn poll_input(&mut self) -> io::Result<InputStatus> {
        self.fetch()
    }

    fn save(&self) -> Option<Vec<u8>> {
        to_bytes(&SavedSerial(self.uart.state()))
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let SavedSerial(state) = from_bytes(state)?;
        let line = self.uart.interrupt_evt().clone();
        self.uart =
            Uart::from_state(&state, line, NoEvents, self.output.clone()).map_err(|_| StateMismatch)?;
        Ok(())
    }
}

/// Returns a register's number for vm-superio, always below 8.
fn register_number(register: u64) -> u8 {
    u8::try_from(register).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::console::NoInput;
    use crate::devices::test_doubles::CapturedOutput;
    use crate::devices::tests::guest;

    struct Text(Vec<u8>);

    impl Input for Text {
        fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }

        fn has_ended(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn read(serial: &mut Serial, register: u64) -> u8 {
        let mut data = [0xff];
        serial.read(register, &mut data, &guest()).unwrap();
        data[0]
    }

    #[test]
    fn what_is_sent_is_printed() {
        let shared = CapturedOutput::default();
        let mut serial = Serial::new(Output::new(shared.clone()), Box::new(NoInput), IrqLine::disconnected());
        serial.write(0, b"x", &guest()).unwrap();
        assert_eq!(shared.bytes(), b"x");
        assert_eq!(read(&mut serial, LINE_STATUS), 0x60, "transmitter empty, nothing received");
    }

    #[test]
    fn input_longer_than_the_buffer_arrives_in_order() {
        let text: Vec<u8> = (0..200).collect();
        let mut serial =
            Serial::new(Output::new(Vec::new()), Box::new(Text(text.clone())), IrqLine::disconnected());
        let mut received = Vec::new();
        while read(&mut serial, LINE_STATUS) & 1 != 0 {
            received.push(read(&mut serial, RECEIVER));
        }
        assert_eq!(received, text);
    }

    /// Behind keys that the guest does not read may be one that ends the run.
    #[test]
    fn input_is_looked_at_without_room_too() {
        struct Keys(std::sync::Arc<std::sync::Mutex<Vec<usize>>>);
        impl Input for Keys {
            fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                self.0.lock().unwrap().push(buffer.len());
                Ok(buffer.len())
            }

            fn has_ended(&self) -> bool {
                false
            }
        }
        let asked = std::sync::Arc::default();
        let keys = Box::new(Keys(std::sync::Arc::clone(&asked)));
        let mut serial = Serial::new(Output::new(Vec::new()), keys, IrqLine::disconnected());
        assert_eq!(serial.poll_input().unwrap(), InputStatus::Consumed);
        assert_eq!(serial.poll_input().unwrap(), InputStatus::Full);
        let asked = asked.lock().unwrap();
        assert!(matches!(asked.as_slice(), [room, 0] if *room > 0), "{asked:?}");
    }

    #[test]
    fn a_wide_access_reaches_the_following_registers_and_stops_at_the_last() {
        let mut serial = Serial::new(Output::new(Vec::new()), Box::new(NoInput), IrqLine::disconnected());
        serial.write(7, &[0x5a, 0x11], &guest()).unwrap();
        let mut data = [0xff; 2];
        serial.read(7, &mut data, &guest()).unwrap();
        assert_eq!(data, [0x5a, 0xff], "the scratch register, then nothing");
    }
}
