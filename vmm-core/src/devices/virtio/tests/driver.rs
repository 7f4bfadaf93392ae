//! A driver for tests: it writes rings into memory and registers one by one, and can do so wrongly.

use kvm_sys_wrap::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::super::device::VirtioDevice;
use super::super::memory::DmaMemory;
use super::super::transport::Transport;
use crate::Gpa;
use crate::devices::device::tests::TestGuest;
use crate::devices::device::{Action, Device};
use crate::devices::irq::IrqLine;
use crate::devices::test_doubles::EdgeCounter;
use crate::spec::gpa_range::GpaRange;

/// Memory from 0, then a hole, then more memory.
pub(super) const MEMORY_END: u64 = 0x10_0000;
pub(super) const BEYOND_HOLE: u64 = 0x20_0000;
/// Memory that the device must not write.
pub(super) const READ_ONLY: u64 = 0x8_0000;
pub(super) const READ_ONLY_SIZE: u64 = 0x1_0000;

pub(super) const NEXT: u16 = 1;
pub(super) const WRITE: u16 = 2;
pub(super) const INDIRECT: u16 = 4;

/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
pub(super) const LIVE: u32 = 1 | 2 | 8 | 4;
pub(super) const NEEDS_RESET: u32 = 0x40;
pub(super) const VERSION_1: u64 = 1 << 32;

/// A device and its driver.
pub(super) struct Driver {
    pub(super) memory: GuestMemory,
    pub(super) device: Transport,
    pulses: EdgeCounter,
    guest: TestGuest,
    /// Descriptors and available entries used so far, by queue.
    next: [(u16, u16); 2],
}

/// Where a queue's descriptors, available and used ring lie.
pub(super) const fn rings(queue: u64) -> [u64; 3] {
    let base = 0x1000 + queue * 0x3000;
    [base, base + 0x1000, base + 0x2000]
}

impl Driver {
    /// A device that nobody has touched yet.
    pub(super) fn new(virtio_device: impl VirtioDevice + 'static) -> Self {
        let regions = [(GuestAddress(0), MEMORY_END as usize), (GuestAddress(BEYOND_HOLE), 0x1_0000)];
        let memory = GuestMemory::from_ranges(&regions).unwrap();
        let read_only = [GpaRange::new(Gpa(READ_ONLY), READ_ONLY_SIZE).unwrap()];
        let pulses = EdgeCounter::default();
        let line = IrqLine::new(pulses.clone());
        let device =
            Transport::new(Box::new(virtio_device), DmaMemory::new(memory.clone(), &read_only), line);
        Self { memory, device, pulses, guest: TestGuest::new(), next: [(0, 0); 2] }
    }

    /// Creates a running device, with queues of 8 descriptors and all features accepted.
    pub(super) fn started(virtio_device: impl VirtioDevice + 'static) -> Self {
        let mut driver = Self::new(virtio_device);
        driver.start();
        driver
    }

    /// Section 3.1.1, step by step.
    pub(super) fn start(&mut self) {
        self.next = [(0, 0); 2];
        self.set(0x070, 0);
        self.set(0x070, 1);
        self.set(0x070, 1 | 2);
        self.set(0x014, 0);
        let low = self.get(0x010);
        self.set(0x014, 1);
        let high = self.get(0x010);
        self.accept(u64::from(low) | u64::from(high) << 32);
        self.set(0x070, 1 | 2 | 8);
        assert_eq!(self.get(0x070), 1 | 2 | 8);
        for queue in 0..2 {
            self.set(0x030, queue);
            if self.get(0x034) != 0 {
                self.place(queue, 8, rings(queue.into()));
                self.set(0x044, 1);
                assert_eq!(self.get(0x044), 1);
            }
        }
        self.set(0x070, LIVE);
    }

    pub(super) fn accept(&mut self, features: u64) {
        for select in 0..2 {
            self.set(0x024, select);
            self.set(0x020, (features >> (32 * select)) as u32);
        }
    }

    /// Writes a queue's registers, all but QueueReady.
    pub(super) fn place(&mut self, queue: u32, size: u32, rings: [u64; 3]) {
        self.set(0x030, queue);
        self.set(0x038, size);
        for (register, address) in [0x080, 0x090, 0x0a0].into_iter().zip(rings) {
            self.set(register, address as u32);
            self.set(register + 4, (address >> 32) as u32);
        }
    }

    pub(super) fn get(&mut self, register: u64) -> u32 {
        let mut data = [0xff; 4];
        assert_eq!(self.device.read(register, &mut data, &self.guest).unwrap(), Action::Continue);
        u32::from_le_bytes(data)
    }

    pub(super) fn set(&mut self, register: u64, value: u32) {
        self.write(register, &value.to_le_bytes());
    }

    pub(super) fn read(&mut self, offset: u64, data: &mut [u8]) {
        self.device.read(offset, data, &self.guest).unwrap();
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        assert_eq!(self.device.write(offset, data, &self.guest).unwrap(), Action::Continue);
    }

    pub(super) fn descriptor(
        &self,
        table: u64,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let at = GuestAddress(table + 16 * u64::from(index));
        self.memory.write_obj(address, at).unwrap();
        self.memory.write_obj(length, GuestAddress(at.0 + 8)).unwrap();
        self.memory.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
        self.memory.write_obj(next, GuestAddress(at.0 + 14)).unwrap();
    }

    /// A chain of buffers (address, length, flags but NEXT) in the next descriptors; returns its head.
    pub(super) fn chain(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u16 {
        let [table, ..] = rings(queue as u64);
        let head = self.next[queue].0 % 8;
        for (position, (address, length, flags)) in buffers.iter().enumerate() {
            let index = self.next[queue].0 % 8;
            self.next[queue].0 += 1;
            let next = if position + 1 < buffers.len() { NEXT } else { 0 };
            self.descriptor(table, index, *address, *length, flags | next, (index + 1) % 8);
        }
        head
    }

    /// Puts a head into the available ring.
    pub(super) fn publish(&mut self, queue: usize, head: u16) {
        let [_, available, _] = rings(queue as u64);
        let index = self.next[queue].1;
        self.memory.write_obj(head, GuestAddress(available + 4 + 2 * u64::from(index % 8))).unwrap();
        self.next[queue].1 = index.wrapping_add(1);
        self.memory.write_obj(self.next[queue].1, GuestAddress(available + 2)).unwrap();
    }

    pub(super) fn notify(&mut self, queue: u32) {
        self.set(0x050, queue);
    }

    /// A chain, published and notified of.
    pub(super) fn send(&mut self, queue: usize, buffers: &[(u64, u32, u16)]) -> u16 {
        let head = self.chain(queue, buffers);
        self.publish(queue, head);
        self.notify(queue as u32);
        head
    }

    /// The chains given back so far, each with the number of bytes written; at most the last 8.
    pub(super) fn used(&self, queue: usize) -> Vec<(u32, u32)> {
        let [_, _, used] = rings(queue as u64);
        let index: u16 = self.memory.read_obj(GuestAddress(used + 2)).unwrap();
        let entry = |entry: u16| {
            let at = used + 4 + 8 * u64::from(entry % 8);
            let word = |at| self.memory.read_obj::<u32>(GuestAddress(at)).unwrap();
            (word(at), word(at + 4))
        };
        (index.saturating_sub(8)..index).map(entry).collect()
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn pulses(&self) -> usize {
        self.pulses.count()
    }

    /// The device went quiet, and said so; another notification changes nothing, and a reset mends it.
    pub(super) fn assert_broken(&mut self, fault: &str) {
        assert_eq!(self.device.driver_error().as_deref(), Some(fault));
        assert_eq!(self.get(0x070) & NEEDS_RESET, NEEDS_RESET);
        let (before, pulses) = (self.used(0), self.pulses());
        for queue in 0..3 {
            self.notify(queue);
        }
        assert_eq!((self.used(0), self.pulses()), (before, pulses));
        self.set(0x070, 0);
        assert_eq!((self.get(0x070), self.get(0x060)), (0, 0));
        assert_eq!(self.device.driver_error(), None);
    }
}
