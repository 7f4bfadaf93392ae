//! The terminal.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use super::super::console::VirtioConsole;
use super::driver::{Driver, WRITE};
use crate::devices::console::{Input, Output};
use crate::devices::device::{Device, InputStatus};
use crate::devices::test_doubles::CapturedOutput;

/// Input that a test can add to.
#[derive(Clone, Default)]
struct Keys(Arc<Mutex<VecDeque<u8>>>);

impl Keys {
    fn press(&self, text: &str) {
        self.0.lock().unwrap().extend(text.bytes());
    }
}

impl Input for Keys {
    fn poll(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut keys = self.0.lock().unwrap();
        let count = buffer.len().min(keys.len());
        for (byte, key) in buffer.iter_mut().zip(keys.drain(..count)) {
            *byte = key;
        }
        Ok(count)
    }

    fn has_ended(&self) -> bool {
        false
    }
}

fn terminal() -> (Driver, CapturedOutput, Keys) {
    let (shared, keys) = (CapturedOutput::default(), Keys::default());
    let console = VirtioConsole::new(Output::new(shared.clone()), Some(Box::new(keys.clone())));
    (Driver::started(console), shared, keys)
}

#[test]
fn what_is_sent_is_printed_in_order_however_it_is_cut() {
    let (mut driver, shared, _) = terminal();
    let text: Vec<u8> = (0..10_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    driver.put(0x4_0000, &text);
    driver.send(1, &[(0x4_0000, 1, 0), (0x4_0001, 0, 0), (0x4_0001, 9_999, 0)]);
    driver.send(1, &[(0x4_0000, 2, 0)]);
    assert_eq!(shared.bytes(), [&text[..], &text[..2]].concat());
    assert_eq!(driver.used(1), [(0, 0), (3, 0)]);
}

#[test]
fn what_arrives_waits_for_a_buffer_and_a_buffer_for_what_arrives() {
    let (mut driver, _, keys) = terminal();
    keys.press("ab");
    assert_eq!(driver.device.poll_input().unwrap(), InputStatus::Full);
    driver.send(0, &[(0x4_0000, 1, WRITE)]);
    assert_eq!(driver.used(0), [(0, 1)]);
    driver.send(0, &[(0x4_0010, 8, WRITE), (0x4_0020, 8, WRITE)]);
    assert_eq!(driver.used(0), [(0, 1), (1, 1)]);
    driver.send(0, &[(0x4_0030, 1, WRITE), (0x4_0040, 7, WRITE)]);
    assert_eq!(driver.used(0).len(), 2, "nothing there now");
    let pulses = driver.pulses();
    keys.press("cd");
    assert_eq!(driver.device.poll_input().unwrap(), InputStatus::Consumed);
    assert_eq!(driver.used(0)[2], (3, 2));
    assert_eq!(driver.pulses(), pulses + 1);
    let at = |address| driver.bytes(address, 1)[0];
    assert_eq!([0x4_0000, 0x4_0010, 0x4_0030, 0x4_0040].map(at), *b"abcd");
}

#[test]
fn without_interrupts_input_comes_when_the_driver_looks() {
    let (mut driver, _, keys) = terminal();
    driver.send(0, &[(0x4_0000, 8, WRITE)]);
    keys.press("x");
    assert_eq!(driver.get(0x060), 1);
    assert_eq!(driver.used(0), [(0, 1)]);
}

#[test]
fn buffers_of_the_wrong_direction_are_no_requests() {
    let (mut driver, shared, keys) = terminal();
    driver.send(1, &[(0x4_0000, 4, WRITE)]);
    driver.assert_broken("the chain of descriptor 0 is no request: what is to be sent must not be writable");
    driver.start();
    keys.press("x");
    driver.send(0, &[(0x4_0000, 4, 0)]);
    driver.assert_broken("the chain of descriptor 0 is no request: a buffer to receive to must be writable");
    driver.start();
    driver.send(1, &[(0, 0x8_0000, 0), (0, 0x8_0000, 0), (0, 1, 0)]);
    driver.assert_broken(
        "the chain of descriptor 0 is no request: what is to be sent at once is at most 1 MiB",
    );
    assert_eq!(shared.bytes(), b"");
    driver.start();
    driver.send(0, &[(0x4_0000, 4, WRITE)]);
    assert_eq!(driver.used(0)[0].1, 1, "the key is still there");
}

#[test]
fn a_terminal_without_input_only_prints() {
    let shared = CapturedOutput::default();
    let mut driver = Driver::started(VirtioConsole::new(Output::new(shared.clone()), None));
    driver.send(0, &[(0x4_0000, 8, WRITE)]);
    driver.put(0x4_0100, b"hi");
    driver.send(1, &[(0x4_0100, 2, 0)]);
    assert_eq!((driver.used(0).len(), shared.bytes()), (0, b"hi".to_vec()));
    assert_eq!(driver.device.poll_input().unwrap(), InputStatus::Closed);
}
