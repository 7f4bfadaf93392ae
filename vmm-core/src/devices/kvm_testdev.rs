//! The test device that kvm-unit-tests expect, QEMU's `pc-testdev`: things to poke at, with no use but testing a KVM.
//!
//! | where | what |
//! |---|---|
//! | ports 0xe0 to 0xe3 | four bytes that keep what is written, in accesses of 1, 2 or 4 bytes |
//! | port 0xe4, 32 bits | the host forgets how it maps the page of this address: the next access faults it in again |
//! | ports 0x2000 to 0x2017 | interrupt input n goes up (not 0) or down (0) |
//! | 0xff00_0000, 64 KiB | bytes that keep what is written |
//!
//! QEMU's has a second view of the four bytes at 0xe8, in single bytes. No test uses it, and the debug console is there.

use std::io;

use super::length;
use crate::Gpa;
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::irq::IrqLine;

/// Where the 64 KiB lie.
pub const MEMORY: Gpa = Gpa(0xff00_0000);
/// The offset of the port that flushes a page.
const FLUSH: u64 = 4;

/// Bytes that keep what is written, and behind the first four, at ports, the flush register.
#[derive(Debug)]
pub struct TestBytes {
    bytes: Vec<u8>,
    flush: bool,
}

impl TestBytes {
    /// Those at ports 0xe0 to 0xe7, with the flush register.
    #[must_use]
    pub fn ports() -> Self {
        Self { bytes: vec![0; 4], flush: true }
    }

    /// Those in the address space.
    #[must_use]
    pub fn memory() -> Self {
        let length = usize::try_from(length::KVM_TESTDEV_MEMORY).unwrap_or(0);
        Self { bytes: vec![0; length], flush: false }
    }

    fn at(&mut self, offset: u64) -> &mut [u8] {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.bytes.get_mut(offset..).unwrap_or_default()
    }
}

impl Device for TestBytes {
    fn length(&self) -> u64 {
        if self.flush { length::KVM_TESTDEV_PORTS } else { length::KVM_TESTDEV_MEMORY }
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        for (to, from) in data.iter_mut().zip(self.at(offset)) {
            *to = *from;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], guest: &dyn Guest) -> io::Result<Action> {
        if let (true, FLUSH, &[a, b, c, d]) = (self.flush, offset, data) {
            guest.forget_page(Gpa(u32::from_le_bytes([a, b, c, d]).into()))?;
        }
        for (to, from) in self.at(offset).iter_mut().zip(data) {
            *to = *from;
        }
        Ok(Action::Continue)
    }

    fn save(&self) -> Vec<u8> {
        to_bytes(&self.bytes)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let bytes: Vec<u8> = from_bytes(state)?;
        if bytes.len() != self.bytes.len() {
            return Err(StateMismatch);
        }
        self.bytes = bytes;
        Ok(())
    }
}

/// Interrupt inputs by hand.
#[derive(Debug)]
pub struct TestLines {
    lines: Vec<IrqLine>,
}

impl TestLines {
    /// One port for each line.
    #[must_use]
    pub fn new(lines: Vec<IrqLine>) -> Self {
        Self { lines }
    }
}

impl Device for TestLines {
    fn length(&self) -> u64 {
        length::KVM_TESTDEV_LINES
    }

    fn read(&mut self, _: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        data.fill(0);
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        // A wide access reaches the following lines, as QEMU splits it: a long of 1 raises one line and lowers three.
        let first = usize::try_from(offset).ok().and_then(|first| self.lines.get(first..));
        for (line, value) in first.unwrap_or_default().iter().zip(data) {
            line.set(*value != 0)?;
        }
        Ok(Action::Continue)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::devices::irq::IrqSink;
    use crate::devices::tests::guest;

    fn read<const N: usize>(device: &mut TestBytes, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        device.read(offset, &mut data, &guest()).unwrap();
        data
    }

    #[test]
    fn bytes_keep_what_is_written_in_any_width() {
        let mut ports = TestBytes::ports();
        ports.write(0, &[1, 2, 3, 4], &guest()).unwrap();
        ports.write(1, &[9, 8], &guest()).unwrap();
        assert_eq!(read(&mut ports, 0), [1, 9, 8, 4]);
        assert_eq!(read(&mut ports, 3), [4, 0xff], "the end");
        assert_eq!(read(&mut ports, 5), [0xff]);
        let mut memory = TestBytes::memory();
        memory.write(0xfff8, &[5; 8], &guest()).unwrap();
        assert_eq!(read(&mut memory, 0xfff8), [5; 8]);
    }

    #[test]
    fn the_flush_register_takes_32_bits() {
        let guest = guest();
        let mut ports = TestBytes::ports();
        ports.write(4, &[0x34, 0x12, 0, 0], &guest).unwrap();
        ports.write(4, &[0x34], &guest).unwrap();
        TestBytes::memory().write(4, &[0, 0x30, 0, 0], &guest).unwrap();
        assert_eq!(guest.forgotten.into_inner(), [Gpa(0x1234)]);
    }

    /// Keeps the levels that it was set to.
    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<bool>>>);

    impl IrqSink for Levels {
        fn pulse(&self) -> io::Result<()> {
            unreachable!("the device only sets levels")
        }

        fn set(&self, level: bool) -> io::Result<()> {
            self.0.lock().unwrap().push(level);
            Ok(())
        }
    }

    #[test]
    fn each_port_is_a_line() {
        let levels = Levels::default();
        let mut lines = TestLines::new(vec![IrqLine::disconnected(), IrqLine::to(levels.clone())]);
        for (port, value) in [(1, 1), (0, 1), (1, 0), (1, 0x80), (23, 1)] {
            lines.write(port, &[value], &guest()).unwrap();
        }
        assert_eq!(*levels.0.lock().unwrap(), [true, false, true]);
        lines.write(0, &[1, 0, 0, 0], &guest()).unwrap();
        assert_eq!(*levels.0.lock().unwrap(), [true, false, true, false], "the second byte of a long");
    }
}
