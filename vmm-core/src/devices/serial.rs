//! Serial port, a 16550: connects vm-superio's UART to the bus and to the console.
//!
//! The port has eight registers of one byte. A wider access goes to the following registers too, as on an ISA bus. Without
//! interrupts, input is fetched when the guest reads the line status or a byte. On a machine with interrupts it is fetched
//! when it arrives, and raises the port's interrupt.
//!
//! The interrupt is a level, as that of a 16550 (data sheet of the PC16550D, 8.6): high while an enabled condition is pending, which
//! is a received byte that has not been read, or a transmitter that became empty until the guest identifies that interrupt or sends
//! the next byte. A byte that follows another one in the receiver is an edge of its own, as without FIFOs: a guest on an
//! edge-triggered input may read one byte for each interrupt.

use std::io;

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
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

/// Receiver buffer: offset 0, when it is read.
const RECEIVER: u64 = 0;
/// Transmitter holding register: offset 0, when it is written.
const TRANSMITTER_HOLDING: u64 = 0;
/// Interrupt identification: offset 2, when it is read.
const IDENTIFICATION: u64 = 2;
/// Line status: offset 5. Bit 0: a byte has arrived.
const LINE_STATUS: u64 = 5;

/// Interrupt enable register: received data is available.
const ENABLE_RECEIVED: u8 = 1 << 0;
/// Interrupt enable register: the transmitter is empty.
const ENABLE_TRANSMITTER: u8 = 1 << 1;
/// Interrupt identification: received data is available; FIFOs are enabled.
const RECEIVED: u8 = 0b0100 | 0xc0;
/// Interrupt identification, as vm-superio keeps it: the transmitter is empty.
const TRANSMITTER: u8 = 1 << 1;

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
    uart: Uart<NoTrigger, NoEvents, Output>,
    output: Output,
    input: Box<dyn Input>,
    line: IrqLine,
    /// Level of the line.
    level: bool,
}

/// Interrupt of vm-superio's UART, which has no level. [`Serial`] has the line.
struct NoTrigger;

impl Trigger for NoTrigger {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Conditions that interrupt.
#[derive(Clone, Copy)]
struct Conditions {
    received: bool,
    transmitter: bool,
}

impl Serial {
    /// Creates a port that prints to `output`, receives from `input` and interrupts over `line`.
    #[must_use]
    pub fn new(output: Output, input: Box<dyn Input>, line: IrqLine) -> Self {
        Self { uart: Uart::new(NoTrigger, output.clone()), output, input, line, level: false }
    }

    /// Returns the enabled conditions that are pending.
    fn conditions(&self) -> Conditions {
        let state = self.uart.state();
        Conditions {
            received: state.interrupt_enable & ENABLE_RECEIVED != 0 && !state.in_buffer.is_empty(),
            transmitter: state.interrupt_enable & ENABLE_TRANSMITTER != 0
                && state.interrupt_identification & TRANSMITTER != 0,
        }
    }

    /// Sets the line to the level of the conditions; with an edge before if a condition is a new one.
    fn update_line(&mut self, is_new: bool) -> io::Result<()> {
        if !self.line.is_connected() {
            return Ok(());
        }
        let Conditions { received, transmitter } = self.conditions();
        let level = received || transmitter;
        if level && self.level && is_new {
            self.line.set(false)?;
            self.level = false;
        }
        if level != self.level {
            self.level = level;
            self.line.set(level)?;
        }
        Ok(())
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
            Ok(_) | Err(SerialError::FullFifo) => {
                self.update_line(false)?;
                Ok(InputStatus::Consumed)
            }
            Err(SerialError::IOError(error) | SerialError::Trigger(error)) => Err(error),
        }
    }

    /// Reads a register.
    fn read_register(&mut self, register: u64) -> io::Result<u8> {
        if matches!(register, RECEIVER | LINE_STATUS) {
            self.fetch()?;
        }
        // Identification ends the interrupt of the transmitter, but only if no other one is told.
        if register == IDENTIFICATION && self.conditions().received {
            return Ok(RECEIVED);
        }
        let byte = self.uart.read(register_number(register));
        if matches!(register, RECEIVER | IDENTIFICATION) {
            self.update_line(register == RECEIVER)?;
        }
        Ok(byte)
    }
}

impl Device for Serial {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        for (register, byte) in (offset..DEVICE.length).zip(data) {
            *byte = self.read_register(register)?;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        for (register, byte) in (offset..DEVICE.length).zip(data) {
            match self.uart.write(register_number(register), *byte) {
                Ok(()) | Err(SerialError::FullFifo) => {}
                Err(SerialError::IOError(error) | SerialError::Trigger(error)) => return Err(error),
            }
            // The transmitter is empty again after each byte.
            self.update_line(register == TRANSMITTER_HOLDING)?;
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
        let output = self.output.clone();
        self.uart = Uart::from_state(&state, NoTrigger, NoEvents, output).map_err(|_| StateMismatch)?;
        // The interrupt controllers are restored after the devices, with what they had of this level.
        self.update_line(false).map_err(|_| StateMismatch)
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
    use crate::devices::test_doubles::{CapturedOutput, EdgeCounter};
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

    /// Port whose input is `text`, with its interrupt input.
    fn connected(text: &[u8]) -> (Serial, EdgeCounter) {
        let input = EdgeCounter::default();
        let line = IrqLine::new(input.clone());
        (Serial::new(Output::new(Vec::new()), Box::new(Text(text.to_vec())), line), input)
    }

    #[test]
    fn the_transmitter_interrupts_until_it_is_identified_and_after_each_byte() {
        let (mut serial, input) = connected(b"");
        serial.write(1, &[2], &guest()).unwrap();
        assert_eq!((input.level(), input.count()), (true, 1), "it is empty from the beginning");
        assert_eq!((read(&mut serial, IDENTIFICATION), input.level()), (0xc2, false));
        assert_eq!(read(&mut serial, IDENTIFICATION), 0xc1, "nothing is pending");
        serial.write(0, b"x", &guest()).unwrap();
        assert_eq!((input.level(), input.count()), (true, 2));
        serial.write(0, b"y", &guest()).unwrap();
        assert_eq!((input.level(), input.count()), (true, 3), "the holding register was full in between");
        serial.write(1, &[0], &guest()).unwrap();
        assert!(!input.level(), "not enabled");
    }

    #[test]
    fn the_receiver_interrupts_until_the_last_byte_is_read() {
        let (mut serial, input) = connected(b"ab");
        serial.write(1, &[3], &guest()).unwrap();
        serial.poll_input().unwrap();
        assert!(input.level());
        for rest in [1, 0] {
            // The receiver is told before the transmitter, and identification does not end it.
            for _ in 0..2 {
                assert_eq!((read(&mut serial, IDENTIFICATION), input.level()), (0xc4, true));
            }
            let before = input.count();
            read(&mut serial, RECEIVER);
            assert_eq!(
                (input.level(), input.count()),
                (true, before + 1),
                "{rest} more, and the transmitter"
            );
        }
        assert_eq!((read(&mut serial, IDENTIFICATION), input.level()), (0xc2, false));
    }

    #[test]
    fn a_restored_port_has_its_level() {
        let (mut serial, _) = connected(b"a");
        serial.write(1, &[1], &guest()).unwrap();
        serial.poll_input().unwrap();
        let (mut restored, input) = connected(b"");
        restored.restore(&serial.save().unwrap()).unwrap();
        assert!(input.level());
        assert_eq!((read(&mut restored, RECEIVER), input.level()), (b'a', false));
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
