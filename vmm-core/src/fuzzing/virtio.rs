//! Virtio devices with any driver.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::sync::{MutexGuard, PoisonError};

use virtio_bindings::virtio_mmio::*;
use vm_memory::{Bytes, GuestAddress};

use super::board::{BoardDevice, FuzzBoard, HIGH_MEMORY, HIGH_MEMORY_SIZE, MEMORY_SIZE};
use super::input::FuzzInput;
use crate::devices::device::{Action, Device};
use crate::spec::{BlockAccess, DeviceSpecs, VirtioSpec};

/// Maximum number of steps of a driver.
const MAX_STEPS: usize = 200;
/// Number of descriptors of a queue that is set up in the usual way.
const QUEUE_SIZE: u16 = 8;
/// Address of the buffers of requests.
const BUFFERS: u64 = 0x2000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK.
const RUNNING: u32 = 1 | 2 | 8 | 4;

thread_local! {
    static BOARD: (FuzzBoard, Vec<Vec<u8>>) = {
        let board = FuzzBoard::new(|disk| DeviceSpecs {
            virtio: vec![
                disk.device(BlockAccess::ReadOnly),
                disk.device(BlockAccess::Temporary),
                VirtioSpec::Console { input: true },
                VirtioSpec::Entropy,
            ],
            serial: None,
            ..DeviceSpecs::default()
        });
        let initial = board.mmio.save().unwrap();
        (board, initial)
    };
}

/// Checks a virtio device with a driver: the first byte chooses the device and whether it is started, the rest are steps.
pub fn virtio(bytes: &[u8]) {
    BOARD.with(|(board, initial)| {
        let mut input = FuzzInput::new(bytes);
        let selection = input.u8();
        let index = usize::from(selection % 4);
        let (Some(device), Some(initial)) = (board.devices.get(index), initial.get(index)) else { return };
        board.clear_memory();
        board.console.set_position(0);
        let mut driver = Driver::new(board, device);
        driver.device.restore(initial).unwrap();
        assert_eq!(driver.device.driver_error(), None, "an error of the run before");
        if selection & 0x80 == 0 {
            driver.start();
        }
        for _ in 0..MAX_STEPS {
            if input.is_empty() {
                break;
            }
            driver.step(&mut input);
        }
        driver.check_saved_state();
        driver.check_stopped();
        board.check_unchanged();
    });
}

/// Driver of one device.
struct Driver<'a> {
    board: &'a FuzzBoard,
    device: MutexGuard<'a, dyn Device + 'static>,
    /// Index of the next entry in the available ring of each queue.
    next: [u16; 2],
}

/// Returns the addresses of descriptor table, available ring and used ring of a queue.
const fn rings(queue: u64) -> [u64; 3] {
    let base = 0x1000 + queue * 0x400;
    [base, base + 0x100, base + 0x200]
}

impl<'a> Driver<'a> {
    fn new(board: &'a FuzzBoard, device: &'a BoardDevice) -> Self {
        let device = device.device.lock().unwrap_or_else(PoisonError::into_inner);
        Self { board, device, next: [0; 2] }
    }

    fn get(&mut self, register: u32) -> u32 {
        let mut data = [0xff; 4];
        let action = self.device.read(register.into(), &mut data, &self.board.guest).unwrap();
        assert_eq!(action, Action::Continue);
        u32::from_le_bytes(data)
    }

    fn set(&mut self, register: u32, value: u32) {
        let action = self.device.write(register.into(), &value.to_le_bytes(), &self.board.guest).unwrap();
        assert_eq!(action, Action::Continue);
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // Outside of memory nothing is written.
        let _ = self.board.guest.memory.write_slice(bytes, GuestAddress(address));
    }

    /// Starts the device as the specification says (3.1.1), with all features.
    fn start(&mut self) {
        for status in [0, 1, 3] {
            self.set(VIRTIO_MMIO_STATUS, status);
        }
        for half in 0..2 {
            self.set(VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
            let features = self.get(VIRTIO_MMIO_DEVICE_FEATURES);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.set(VIRTIO_MMIO_DRIVER_FEATURES, features);
        }
        self.set(VIRTIO_MMIO_STATUS, 1 | 2 | 8);
        for queue in 0..2 {
            self.set(VIRTIO_MMIO_QUEUE_SEL, queue);
            if self.get(VIRTIO_MMIO_QUEUE_NUM_MAX) == 0 {
                continue;
            }
            self.set(VIRTIO_MMIO_QUEUE_NUM, QUEUE_SIZE.into());
            let registers =
                [VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_USED_LOW];
            for (register, address) in registers.into_iter().zip(rings(queue.into())) {
                self.set(register, u32::try_from(address).unwrap());
            }
            self.set(VIRTIO_MMIO_QUEUE_READY, 1);
            assert_eq!(self.get(VIRTIO_MMIO_QUEUE_READY), 1, "a good queue is refused");
        }
        self.set(VIRTIO_MMIO_STATUS, RUNNING);
        assert_eq!(self.get(VIRTIO_MMIO_STATUS), RUNNING);
    }

    fn step(&mut self, input: &mut FuzzInput<'_>) {
        match input.u8() % 10 {
            0 => {
                let register = u32::from(input.u8()) * 4;
                self.set(register, input.u32());
            }
            1 => {
                let (offset, width) = (input.u16() % 0x200, 1 << (input.u8() % 4));
                let mut data = [0; 8];
                let data = data.get_mut(..width).unwrap();
                data.copy_from_slice(input.array::<8>().get(..width).unwrap());
                self.device.write(offset.into(), data, &self.board.guest).unwrap();
            }
            2 => {
                let (offset, width) = (input.u16() % 0x200, 1 << (input.u8() % 4));
                let mut data = [0xff; 8];
                self.device.read(offset.into(), data.get_mut(..width).unwrap(), &self.board.guest).unwrap();
            }
            3 => {
                let (address, length) = (input.u16() % MEMORY_SIZE, input.u8() % 64);
                let bytes = input.bytes(length.into());
                // Not even the driver writes to read-only memory.
                let end = u64::from(address).saturating_add(u64::try_from(bytes.len()).unwrap());
                if end <= super::board::READ_ONLY || u64::from(address) >= super::board::READ_ONLY + 0x1000 {
                    self.put(address.into(), bytes);
                }
            }
            4 => self.descriptor(input),
            5 => {
                let (queue, head) = (input.u8(), input.u8());
                self.publish(
                    queue & 1,
                    if head & 0x80 == 0 { u16::from(head) % QUEUE_SIZE } else { input.u16() },
                );
            }
            6 => self.set(VIRTIO_MMIO_QUEUE_NOTIFY, u32::from(input.u8() % 3)),
            7 => {
                self.device.poll_input().unwrap();
            }
            8 => self.request(input),
            _ => self.check_saved_state(),
        }
    }

    /// Writes any descriptor.
    fn descriptor(&mut self, input: &mut FuzzInput<'_>) {
        let (place, kind) = (input.u8(), input.u8());
        let at = u64::from(input.u16());
        let address = match kind & 3 {
            0 | 1 => at % u64::from(MEMORY_SIZE),
            2 => HIGH_MEMORY + at % u64::from(HIGH_MEMORY_SIZE),
            _ => at << (kind >> 2),
        };
        let length = if kind & 4 == 0 { u32::from(input.u16()) } else { input.u32() };
        let (flags, next) = (u16::from(input.u8() % 8), u16::from(input.u8() % 16));
        let [table, ..] = rings((place >> 4 & 1).into());
        self.put_descriptor(table, place % 16, address, length, flags, next);
    }

    fn put_descriptor(&self, table: u64, index: u8, address: u64, length: u32, flags: u16, next: u16) {
        let mut descriptor = [0; 16];
        let fields: [&[u8]; 4] =
            [&address.to_le_bytes(), &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()];
        for (byte, value) in descriptor.iter_mut().zip(fields.concat()) {
            *byte = value;
        }
        self.put(table + 16 * u64::from(index), &descriptor);
    }

    /// Puts a head into the available ring.
    fn publish(&mut self, queue: u8, head: u16) {
        let [_, available, _] = rings(queue.into());
        let Some(next) = self.next.get_mut(usize::from(queue)) else { return };
        let entry = available + 4 + 2 * u64::from(*next % QUEUE_SIZE);
        *next = next.wrapping_add(1);
        let index = *next;
        self.put(entry, &head.to_le_bytes());
        self.put(available + 2, &index.to_le_bytes());
    }

    /// Sends a request that is nearly right: three buffers, of which the first is the header of a request to a disk.
    fn request(&mut self, input: &mut FuzzInput<'_>) {
        let (kind, sector, units) = (input.u8() % 12, input.u8(), input.u8());
        let queue = kind & 1;
        let mut header = [0; 16];
        for (at, byte) in [(0, kind >> 1), (8, sector % 16), (15, sector >> 7)] {
            if let Some(place) = header.get_mut(at) {
                *place = byte;
            }
        }
        self.put(BUFFERS, &header);
        self.put(BUFFERS + 0x200, input.bytes(usize::from(units % 32)));
        let [table, ..] = rings(queue.into());
        let flags = if units & 0x80 == 0 { WRITE } else { 0 };
        self.put_descriptor(table, 0, BUFFERS, 16, NEXT, 1);
        self.put_descriptor(table, 1, BUFFERS + 0x200, u32::from(units % 64) * 64, NEXT | flags, 2);
        self.put_descriptor(table, 2, BUFFERS + 0x100, 1, WRITE, 0);
        // A terminal and a source of random numbers take single buffers.
        let head = u16::from(sector >> 4 & 3) % 3;
        self.publish(queue, head);
        self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue.into());
    }

    /// Checks that the state is saved as it was restored.
    fn check_saved_state(&mut self) {
        let saved = self.device.save().unwrap();
        self.device.restore(&saved).unwrap();
        assert!(self.device.save().as_ref() == Some(&saved), "another state after its restoration");
    }

    /// Checks that a device which stopped at an error of the driver does nothing until it is reset.
    fn check_stopped(&mut self) {
        const NEEDS_RESET: u32 = 0x40;
        if self.get(VIRTIO_MMIO_STATUS) & NEEDS_RESET == 0 {
            return;
        }
        let before = self.board.memory();
        for queue in 0..3 {
            self.set(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
        }
        self.device.poll_input().unwrap();
        assert!(self.board.memory() == before, "a stopped device writes to memory");
        self.set(VIRTIO_MMIO_STATUS, 0);
        assert_eq!((self.get(VIRTIO_MMIO_STATUS), self.device.driver_error()), (0, None));
    }
}
