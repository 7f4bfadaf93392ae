//! Test device of kvm-unit-tests, QEMU's `pc-testdev`: registers for tests of KVM itself.
//!
//! | where | what |
//! |---|---|
//! | ports 0xe0 to 0xe3 | four bytes that keep what is written, in accesses of 1, 2 or 4 bytes |
//! | port 0xe4, 32 bits | invalidates the host's mapping of the page at this address: the next access faults it in again |
//! | ports 0x2000 to 0x2017 | interrupt input n goes up (not 0) or down (0) |
//! | 0xff00_0000, 64 KiB | bytes that keep what is written |
//!
//! QEMU's has a second view of the four bytes at 0xe8, in single bytes. No test uses it, and the debug console is there.

use std::fmt;
use std::io;

use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::devices::irq::IrqLine;
use crate::spec::BusAddress;
use crate::{Gpa, Port};

/// Declaration of the bytes at ports.
pub(super) const PORTS: DeviceInfo = DeviceInfo {
    name: "kvm-testdev",
    title: "the test device",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0xe0))),
    // Four bytes, and the flush register.
    length: 8,
    irqs: &[],
    purpose: "keeps four bytes; OUT of an address to 0xe4 makes the host forget its page",
};

/// Declaration of the interrupt inputs.
pub(super) const LINES: DeviceInfo = DeviceInfo {
    name: "kvm-testdev",
    title: "the test device",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(0x2000))),
    // A port for each input of an IOAPIC.
    length: 24,
    irqs: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23],
    purpose: "OUT sets an interrupt input",
};

/// Declaration of the bytes in the address space.
pub(super) const MEMORY: DeviceInfo = DeviceInfo {
    name: "kvm-testdev",
    title: "the test device",
    location: DeviceLocation::Fixed(BusAddress::Mmio(Gpa(0xff00_0000))),
    length: 0x1_0000,
    irqs: &[],
    purpose: "keeps bytes",
};

/// Offset of the port that invalidates the mapping of a page.
const FLUSH: u64 = 4;

/// Host mappings of guest pages, for the flush register.
pub trait PageMappings: fmt::Debug + Send {
    /// Invalidates the host's mapping of the page at a guest-physical address. The guest's next access to it is a fault in the
    /// host, which the guest does not notice. Does nothing where no memory is.
    ///
    /// # Errors
    /// Errors of the host's call.
    fn invalidate_page(&self, address: Gpa) -> io::Result<()>;
}

/// Bytes of the kvm-unit-tests device that keep what is written; those at ports are followed by the flush register.
#[derive(Debug)]
pub struct TestBytes {
    bytes: Vec<u8>,
    flush: Option<Box<dyn PageMappings>>,
}

impl TestBytes {
    /// Creates the bytes at ports 0xe0 to 0xe3, with the flush register for `mappings` at 0xe4.
    #[must_use]
    pub fn ports(mappings: Box<dyn PageMappings>) -> Self {
        Self { bytes: vec![0; 4], flush: Some(mappings) }
    }

    /// Creates the bytes in the address space.
    #[must_use]
    pub fn memory() -> Self {
        let length = usize::try_from(MEMORY.length).unwrap_or(0);
        Self { bytes: vec![0; length], flush: None }
    }

    fn at(&mut self, offset: u64) -> &mut [u8] {
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        self.bytes.get_mut(offset..).unwrap_or_default()
    }
}

impl Device for TestBytes {
    fn length(&self) -> u64 {
        if self.flush.is_some() { PORTS.length } else { MEMORY.length }
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        for (to, from) in data.iter_mut().zip(self.at(offset)) {
            *to = *from;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        if let (Some(mappings), FLUSH, &[a, b, c, d]) = (&self.flush, offset, data) {
            mappings.invalidate_page(Gpa(u32::from_le_bytes([a, b, c, d]).into()))?;
        }
        for (to, from) in self.at(offset).iter_mut().zip(data) {
            *to = *from;
        }
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
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

/// Ports of the kvm-unit-tests device by which the guest drives interrupt inputs.
#[derive(Debug)]
pub struct TestLines {
    lines: Vec<IrqLine>,
}

impl TestLines {
    /// Creates one port for each line.
    #[must_use]
    pub fn new(lines: Vec<IrqLine>) -> Self {
        Self { lines }
    }
}

impl Device for TestLines {
    fn length(&self) -> u64 {
        LINES.length
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

    fn save(&self) -> Option<Vec<u8>> {
        Some(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::devices::irq::IrqSink;
    use crate::devices::tests::guest;

    /// Keeps the pages that it was to invalidate.
    #[derive(Debug, Clone, Default)]
    struct Invalidated(Arc<Mutex<Vec<Gpa>>>);

    impl PageMappings for Invalidated {
        fn invalidate_page(&self, address: Gpa) -> io::Result<()> {
            self.0.lock().unwrap().push(address);
            Ok(())
        }
    }

    fn read<const N: usize>(device: &mut TestBytes, offset: u64) -> [u8; N] {
        let mut data = [0xff; N];
        device.read(offset, &mut data, &guest()).unwrap();
        data
    }

    #[test]
    fn bytes_keep_what_is_written_in_any_width() {
        let mut ports = TestBytes::ports(Box::new(Invalidated::default()));
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
        let pages = Invalidated::default();
        let mut ports = TestBytes::ports(Box::new(pages.clone()));
        ports.write(4, &[0x34, 0x12, 0, 0], &guest()).unwrap();
        ports.write(4, &[0x34], &guest()).unwrap();
        TestBytes::memory().write(4, &[0, 0x30, 0, 0], &guest()).unwrap();
        assert_eq!(*pages.0.lock().unwrap(), [Gpa(0x1234)]);
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
        let mut lines = TestLines::new(vec![IrqLine::disconnected(), IrqLine::new(levels.clone())]);
        for (port, value) in [(1, 1), (0, 1), (1, 0), (1, 0x80), (23, 1)] {
            lines.write(port, &[value], &guest()).unwrap();
        }
        assert_eq!(*levels.0.lock().unwrap(), [true, false, true]);
        lines.write(0, &[1, 0, 0, 0], &guest()).unwrap();
        assert_eq!(*levels.0.lock().unwrap(), [true, false, true, false], "the second byte of a long");
    }
}
