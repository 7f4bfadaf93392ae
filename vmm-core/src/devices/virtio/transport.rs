//! Virtio over MMIO (4.2): registers for discovery, feature negotiation and notification.
//!
//! The registers are those of version 2; there is no legacy interface. A [`VirtioDevice`] implements the kind of device. Requests
//! are served on the thread of the vCPU that writes QueueNotify, before it continues.
//!
//! Registers take aligned accesses of 4 bytes and ignore others (4.2.2.2). A write that is not allowed now is ignored. A driver
//! that breaks a rule of the queues finds DEVICE_NEEDS_RESET in the status.

use std::io;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio::*;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

use super::device::VirtioDevice;
use super::driver_error::{DriverError, DriverFault};
use super::memory::DmaMemory;
use super::queue::{DescriptorChains, QueueSlot};
use crate::devices::device::{Action, Device, Guest, InputStatus, StateMismatch};
use crate::devices::irq::IrqLine;
use crate::spec::virtio::WINDOW_LENGTH;

/// Magic value: "virt", little-endian.
const MAGIC: u32 = 0x7472_6976;
/// Version of the registers; 1 is legacy.
const VERSION: u32 = 2;
/// Vendor ID: "VMM ", little-endian. Drivers do not check it.
const VENDOR: u32 = 0x204d_4d56;
/// Features of the transport: version 1 of the specification, and indirect descriptors.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC;
/// Status bits that a driver may set. It can only clear all of them at once (2.1.1).
const DRIVER_STATUS_BITS: u32 = VIRTIO_CONFIG_S_ACKNOWLEDGE
    | VIRTIO_CONFIG_S_DRIVER
    | VIRTIO_CONFIG_S_FEATURES_OK
    | VIRTIO_CONFIG_S_DRIVER_OK
    | VIRTIO_CONFIG_S_FAILED;

/// Virtio device: transport and kind.
pub(super) struct Transport {
    pub(super) device: Box<dyn VirtioDevice>,
    memory: DmaMemory,
    line: IrqLine,
    pub(super) registers: MmioRegisters,
    pub(super) queues: Vec<QueueSlot>,
    fault: Option<DriverFault>,
}

/// Registers other than those of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct MmioRegisters {
    pub(super) status: u32,
    pub(super) interrupts: u32,
    /// Features that the driver accepted.
    pub(super) features: u64,
    pub(super) device_features_select: u32,
    pub(super) driver_features_select: u32,
    pub(super) queue_select: u32,
}

impl Transport {
    /// Creates the transport of `device`, with `memory` for its queues and `line` for its interrupts.
    pub(super) fn new(device: Box<dyn VirtioDevice>, memory: DmaMemory, line: IrqLine) -> Self {
        let queues = device.queues().iter().map(|max_size| QueueSlot::new(*max_size)).collect();
        Self { device, memory, line, registers: MmioRegisters::default(), queues, fault: None }
    }

    fn offered_features(&self) -> u64 {
        FEATURES | self.device.features()
    }

    fn register(&self, offset: u32) -> u32 {
        let slot = self.selected();
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION,
            VIRTIO_MMIO_DEVICE_ID => self.device.id(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => {
                half(self.offered_features(), self.registers.device_features_select)
            }
            VIRTIO_MMIO_QUEUE_NUM_MAX => slot.map_or(0, |slot| slot.max_size.into()),
            VIRTIO_MMIO_QUEUE_READY => slot.is_some_and(|slot| slot.queue.is_some()).into(),
            VIRTIO_MMIO_INTERRUPT_STATUS => self.registers.interrupts,
            VIRTIO_MMIO_STATUS => self.registers.status,
            // No shared memory (4.2.2): length and address are -1.
            VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            // The configuration never changes, so its generation is 0. All others are write-only.
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) -> io::Result<()> {
        match offset {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.registers.device_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.registers.driver_features_select = value,
            VIRTIO_MMIO_DRIVER_FEATURES => self.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.registers.queue_select = value,
            VIRTIO_MMIO_QUEUE_READY => return self.set_ready(value & 1 != 0),
            VIRTIO_MMIO_QUEUE_NOTIFY => return self.notify(value),
            VIRTIO_MMIO_INTERRUPT_ACK => self.registers.interrupts &= !value,
            VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.set_queue_register(offset, value),
        }
        Ok(())
    }

    fn selected(&self) -> Option<&QueueSlot> {
        self.queues.get(usize::try_from(self.registers.queue_select).ok()?)
    }

    /// Sets size and addresses of the selected queue. They are fixed once it is ready (4.2.3.2).
    fn set_queue_register(&mut self, offset: u32, value: u32) {
        let number = usize::try_from(self.registers.queue_select).unwrap_or(usize::MAX);
        let Some(slot) = self.queues.get_mut(number).filter(|slot| slot.queue.is_none()) else { return };
        let config = &mut slot.config;
        match offset {
            VIRTIO_MMIO_QUEUE_NUM => config.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => set_half(&mut config.descriptors, 0, value),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => set_half(&mut config.descriptors, 1, value),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => set_half(&mut config.available, 0, value),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => set_half(&mut config.available, 1, value),
            VIRTIO_MMIO_QUEUE_USED_LOW => set_half(&mut config.used, 0, value),
            VIRTIO_MMIO_QUEUE_USED_HIGH => set_half(&mut config.used, 1, value),
            _ => {}
        }
    }

    fn set_ready(&mut self, ready: bool) -> io::Result<()> {
        let number = usize::try_from(self.registers.queue_select).unwrap_or(usize::MAX);
        let Some(slot) = self.queues.get_mut(number) else { return Ok(()) };
        if !ready {
            slot.queue = None;
        } else if slot.queue.is_none()
            && let Err(fault) = slot.open(number, &self.memory)
        {
            return self.fail(fault);
        }
        Ok(())
    }

    /// Sets accepted features, until the driver sets FEATURES_OK (3.1.1).
    fn accept_features(&mut self, value: u32) {
        if self.registers.status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            set_half(&mut self.registers.features, self.registers.driver_features_select, value);
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            self.reset();
            return;
        }
        let mut status = self.registers.status | value & DRIVER_STATUS_BITS;
        let features = self.registers.features;
        // The driver reads the bit back: if it is clear, negotiation failed (2.2.2). Version 1 is required.
        if features & !self.offered_features() != 0 || features & (1 << VIRTIO_F_VERSION_1) == 0 {
            status &= !VIRTIO_CONFIG_S_FEATURES_OK;
        }
        if status & VIRTIO_CONFIG_S_FEATURES_OK == 0 {
            status &= !VIRTIO_CONFIG_S_DRIVER_OK;
        }
        self.registers.status = status;
    }

    fn reset(&mut self) {
        self.registers = MmioRegisters::default();
        self.fault = None;
        for slot in &mut self.queues {
            *slot = QueueSlot::new(slot.max_size);
        }
    }

    /// Returns true after DRIVER_OK, until an error.
    fn is_running(&self) -> bool {
        let status = self.registers.status;
        let dead = VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED;
        status & VIRTIO_CONFIG_S_DRIVER_OK != 0 && status & dead == 0
    }

    fn notify(&mut self, queue: u32) -> io::Result<()> {
        let number = usize::try_from(queue).unwrap_or(usize::MAX);
        let features = self.registers.features;
        self.process_queue(number, (), |device, chains| device.serve(number, chains, features))
    }

    fn fetch_input(&mut self) -> io::Result<InputStatus> {
        let Some(queue) = self.device.input_queue() else { return Ok(InputStatus::Closed) };
        let status =
            self.process_queue(queue, InputStatus::Full, |device, chains| device.receive_input(chains))?;
        if status == InputStatus::Full {
            self.device.poll_without_buffer()?;
        }
        Ok(status)
    }

    /// Calls `work` with the chains of a queue, then interrupts the driver if chains were returned. Returns `idle` if the device
    /// is not running or the queue is not ready.
    fn process_queue<T>(
        &mut self,
        queue: usize,
        idle: T,
        work: impl FnOnce(&mut dyn VirtioDevice, &mut DescriptorChains<'_>) -> Result<T, DriverError>,
    ) -> io::Result<T> {
        if !self.is_running() {
            return Ok(idle);
        }
        let Some(slot) = self.queues.get_mut(queue) else { return Ok(idle) };
        let Some(mut chains) = DescriptorChains::new(slot, &self.memory) else { return Ok(idle) };
        let result = work(&mut *self.device, &mut chains);
        if chains.wants_interrupt() {
            self.interrupt(VIRTIO_MMIO_INT_VRING)?;
        }
        match result {
            Ok(value) => Ok(value),
            Err(DriverError::Driver(fault)) => self.fail(fault).map(|()| idle),
            Err(DriverError::Host(error)) => Err(error),
        }
    }

    /// Stops the device with DEVICE_NEEDS_RESET (2.1.2).
    fn fail(&mut self, fault: DriverFault) -> io::Result<()> {
        self.fault.get_or_insert(fault);
        self.registers.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        if self.registers.status & VIRTIO_CONFIG_S_DRIVER_OK != 0 {
            self.interrupt(VIRTIO_MMIO_INT_CONFIG)?;
        }
        Ok(())
    }

    fn interrupt(&mut self, reason: u32) -> io::Result<()> {
        self.registers.interrupts |= reason;
        self.line.pulse()
    }
}

impl Device for Transport {
    fn length(&self) -> u64 {
        WINDOW_LENGTH
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        if let Some(inside) = offset.checked_sub(VIRTIO_MMIO_CONFIG) {
            let start = usize::try_from(inside).unwrap_or(usize::MAX);
            let rest = self.device.config().get(start..).unwrap_or_default();
            data.fill(0);
            for (byte, value) in data.iter_mut().zip(rest) {
                *byte = *value;
            }
            return Ok(Action::Continue);
        }
        if offset == VIRTIO_MMIO_INTERRUPT_STATUS {
            // A driver without interrupts polls this register.
            self.fetch_input()?;
        }
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(data) if offset.is_multiple_of(4) => *data = self.register(offset).to_le_bytes(),
            Ok(_) | Err(_) => data.fill(0),
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        if let (Ok(bytes), true, true) =
            (<[u8; 4]>::try_from(data), offset < VIRTIO_MMIO_CONFIG, offset.is_multiple_of(4))
        {
            self.set_register(offset, u32::from_le_bytes(bytes))?;
        }
        Ok(Action::Continue)
    }

    fn poll_input(&mut self) -> io::Result<InputStatus> {
        self.fetch_input()
    }

    fn driver_error(&self) -> Option<String> {
        self.fault.as_ref().map(ToString::to_string)
    }

    fn save(&self) -> Option<Vec<u8>> {
        super::state::save(self)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        super::state::restore(self, state)?;
        // It was an error of another run.
        self.fault = None;
        Ok(())
    }
}

/// Returns bits 0 to 31 or 32 to 63 of a number, and 0 for higher bits.
fn half(value: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = value.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    *value = match select {
        0 => *value & !0xffff_ffff | u64::from(half),
        1 => *value & 0xffff_ffff | u64::from(half) << 32,
        _ => *value,
    };
}
