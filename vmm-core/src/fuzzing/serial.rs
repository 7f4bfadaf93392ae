//! The 16550 against a model of its data path.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::collections::VecDeque;

use super::board::{FuzzBoard, FuzzConsole};
use super::input::FuzzInput;
use crate::devices::Serial;
use crate::devices::console::Output;
use crate::devices::device::Device;
use crate::devices::irq::IrqLine;
use crate::devices::test_doubles::CapturedOutput;
use crate::spec::DeviceSpecs;

/// Size of the receiver's FIFO in bytes.
const FIFO_SIZE: usize = 64;
/// Maximum number of accesses.
const MAX_ACCESSES: usize = 300;

const DATA: u8 = 0;
const LINE_CONTROL: u8 = 3;
const MODEM_CONTROL: u8 = 4;
const LINE_STATUS: u8 = 5;
/// Line control: offsets 0 and 1 are the divisor (DLAB).
const DIVISOR: u8 = 1 << 7;
/// Modem control: what is sent is received.
const LOOPBACK: u8 = 1 << 4;

thread_local! {
    /// Only its guest is used.
    static BOARD: FuzzBoard = FuzzBoard::new(|_| DeviceSpecs { serial: None, ..DeviceSpecs::default() });
}

/// Checks a serial port with accesses of 1, 2 or 4 bytes.
pub fn serial(bytes: &[u8]) {
    BOARD.with(|board| {
        let mut input = FuzzInput::new(bytes);
        let (printed, console) = (CapturedOutput::default(), FuzzConsole::default());
        let new_port =
            || Serial::new(Output::new(printed.clone()), Box::new(console.clone()), IrqLine::disconnected());
        let mut port = new_port();
        // The values after a reset: 8 bits a byte, OUT2.
        let (line_control, modem_control) = (3, 8);
        let mut model = Model { line_control, modem_control, console: console.clone(), ..Model::default() };
        for _ in 0..MAX_ACCESSES {
            if input.is_empty() {
                break;
            }
            let kind = input.u8();
            let (register, width) =
                (kind & 7, [1, 1, 2, 4].get(usize::from(kind >> 3 & 3)).copied().unwrap_or(1));
            if kind & 0x80 != 0 {
                let value: [u8; 4] = input.array();
                let value = value.get(..width).unwrap();
                (register..8).zip(value).for_each(|(register, byte)| model.write(register, *byte));
                port.write(register.into(), value, &board.guest).unwrap();
            } else if kind & 0x40 != 0 {
                model.fetch();
                console.set_position(model.before_fetch);
                port.poll_input().unwrap();
                assert_eq!(console.position(), model.position);
            } else {
                let mut data = [0xff; 4];
                let data = data.get_mut(..width).unwrap();
                let start = console.position();
                let expected: Vec<_> =
                    (register..8).take(width).map(|register| model.read(register)).collect();
                console.set_position(start);
                port.read(register.into(), data, &board.guest).unwrap();
                for ((register, byte), (mask, value)) in (register..8).zip(&*data).zip(expected) {
                    assert_eq!(byte & mask, value, "register {register}");
                }
            }
        }
        assert!(printed.bytes() == model.printed, "other output");
        check_saved_state(board, port, new_port(), &console);
    });
}

/// Checks that a port with the saved state of another one answers as that one does.
fn check_saved_state(board: &FuzzBoard, mut port: Serial, mut other: Serial, console: &FuzzConsole) {
    console.end();
    let saved = port.save().unwrap();
    other.restore(&saved).unwrap();
    assert!(other.save().as_ref() == Some(&saved), "another state after its restoration");
    for register in (0..8).chain([0, 5, 0]) {
        let (mut one, mut two) = ([0xff], [0xff]);
        port.read(register, &mut one, &board.guest).unwrap();
        other.read(register, &mut two, &board.guest).unwrap();
        assert_eq!(one, two, "register {register}");
    }
}

/// Data path of the port: sender, receiver, and the registers that direct bytes.
#[derive(Debug, Default)]
struct Model {
    printed: Vec<u8>,
    received: VecDeque<u8>,
    line_control: u8,
    modem_control: u8,
    console: FuzzConsole,
    /// Position in the console's input before the last fetch, and after.
    before_fetch: usize,
    position: usize,
}

impl Model {
    fn loops_back(&self) -> bool {
        self.modem_control & LOOPBACK != 0
    }

    fn selects_divisor(&self) -> bool {
        self.line_control & DIVISOR != 0
    }

    fn write(&mut self, register: u8, byte: u8) {
        match register {
            DATA if self.selects_divisor() => {}
            DATA if !self.loops_back() => self.printed.push(byte),
            DATA if self.received.len() < FIFO_SIZE => self.received.push_back(byte),
            LINE_CONTROL => self.line_control = byte,
            MODEM_CONTROL => self.modem_control = byte,
            _ => {}
        }
    }

    /// Takes input that has arrived. In loopback mode it is lost.
    fn fetch(&mut self) {
        self.before_fetch = self.console.position();
        let next = self.console.next(FIFO_SIZE - self.received.len());
        self.position = self.before_fetch + next.len();
        self.console.set_position(self.position);
        if !self.loops_back() {
            self.received.extend(next);
        }
    }

    /// Returns the bits that the model knows of a register, and their values.
    fn read(&mut self, register: u8) -> (u8, u8) {
        if matches!(register, DATA | LINE_STATUS) {
            self.fetch();
        }
        match register {
            DATA if self.selects_divisor() => (0, 0),
            DATA => (0xff, self.received.pop_front().unwrap_or(0)),
            LINE_STATUS => (1, u8::from(!self.received.is_empty())),
            LINE_CONTROL => (0xff, self.line_control),
            MODEM_CONTROL => (0xff, self.modem_control),
            _ => (0, 0),
        }
    }
}
