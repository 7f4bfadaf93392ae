//! Virtqueue: its registers, and the chains of buffers in it.
//!
//! virtio-queue implements the rings of a split virtqueue (2.7) and never leaves guest memory. It tolerates errors: it keeps the
//! old address if a new one is invalid, and ends a chain that it cannot follow as if it were complete. This module detects
//! these cases, so a driver's mistake becomes a [`DriverFault`] and not a wrong request.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{Bytes, GuestAddress};

use super::driver_error::DriverFault;
use super::memory::DmaMemory;
use crate::Gpa;
use crate::spec::gpa_range::GpaRange;

/// Registers of a queue, valid or not, and the queue once it is ready.
#[derive(Debug)]
pub(super) struct QueueSlot {
    /// Maximum size, a power of two.
    pub(super) max_size: u16,
    /// Registers as the driver wrote them.
    pub(super) config: QueueConfig,
    /// Queue, if the driver has made it ready with valid registers.
    pub(super) queue: Option<Queue>,
}

/// Registers of one queue, as the driver wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct QueueConfig {
    /// Number of descriptors.
    pub(super) size: u32,
    /// Address of the descriptor table.
    pub(super) descriptors: u64,
    /// Address of the available ring, which the driver writes.
    pub(super) available: u64,
    /// Address of the used ring, which the device writes.
    pub(super) used: u64,
}

impl QueueSlot {
    pub(super) const fn new(max_size: u16) -> Self {
        Self { max_size, config: QueueConfig { size: 0, descriptors: 0, available: 0, used: 0 }, queue: None }
    }

    /// Makes the queue ready at the addresses of its registers.
    pub(super) fn open(&mut self, number: usize, memory: &DmaMemory) -> Result<(), DriverFault> {
        let fault = |problem| DriverFault::Queue { queue: number, problem };
        let QueueConfig { size, descriptors, available, used } = self.config;
        let mut queue = Queue::new(self.max_size).map_err(|_| fault("does not exist"))?;
        let size = u16::try_from(size).map_err(|_| fault("has an impossible size"))?;
        queue.try_set_size(size).map_err(|_| fault("has a size that is no power of two, or too large"))?;
        queue
            .try_set_desc_table_address(GuestAddress(descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(available)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(used)))
            .map_err(|_| fault("has a misaligned ring"))?;
        queue.set_ready(true);
        if available == 0 || !queue.is_valid(memory) {
            return Err(fault("has a ring that is not in memory, or not writable"));
        }
        // Sizes by 2.7: 16 bytes a descriptor; 2 and 8 bytes an entry, after two fields of 2 bytes. Another field follows
        // only with VIRTIO_F_EVENT_IDX, which is not offered.
        let size = u64::from(size);
        let part = |start, bytes| GpaRange::new(Gpa(start), bytes);
        let parts = [part(descriptors, 16 * size), part(available, 4 + 2 * size), part(used, 4 + 8 * size)];
        let [Some(table), Some(available), Some(used)] = parts else { return Err(fault("leaves memory")) };
        if table.overlaps(available) || table.overlaps(used) || available.overlaps(used) {
            return Err(fault("has rings that overlap"));
        }
        self.queue = Some(queue);
        Ok(())
    }
}

/// Buffers of a request: first those that the device reads, then those that it writes.
pub(super) struct DescriptorChain<'a> {
    /// First descriptor, which identifies the request to the driver.
    pub(super) head: u16,
    /// Buffers that the device reads.
    pub(super) reader: Reader<'a>,
    /// Buffers that the device writes.
    pub(super) writer: Writer<'a>,
}

/// Chains that the driver has put into a queue. At most as many chains as the queue has entries are returned at once, so a
/// driver that keeps adding chains cannot keep the device busy without end.
pub(super) struct DescriptorChains<'a> {
    queue: &'a mut Queue,
    memory: &'a DmaMemory,
    max_size: u16,
    remaining: u16,
    used_added: bool,
}

impl<'a> DescriptorChains<'a> {
    /// Returns the chains of the queue at `slot`; `None` if it is not ready.
    pub(super) fn new(slot: &'a mut QueueSlot, memory: &'a DmaMemory) -> Option<Self> {
        let queue = slot.queue.as_mut()?;
        let remaining = queue.size();
        Some(Self { queue, memory, max_size: slot.max_size, remaining, used_added: false })
    }

    /// Returns the next chain.
    pub(super) fn next(&mut self) -> Result<Option<DescriptorChain<'a>>, DriverFault> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let mut iterator = self.queue.iter(self.memory).map_err(|error| {
            let jumped = matches!(error, virtio_queue::Error::InvalidAvailRingIndex);
            if jumped { DriverFault::AvailableIndex } else { DriverFault::Ring }
        })?;
        let Some(chain) = iterator.next() else { return Ok(None) };
        self.remaining -= 1;
        let head = chain.head_index();
        if head >= self.queue.size() {
            return Err(DriverFault::Head(head));
        }
        check(chain.clone(), head, self.max_size)?;
        let reader = chain.clone().reader(self.memory).map_err(|_| DriverFault::Buffer(head))?;
        let writer = chain.writer(self.memory).map_err(|_| DriverFault::Buffer(head))?;
        Ok(Some(DescriptorChain { head, reader, writer }))
    }

    /// Returns the last chain to the queue, to be taken again later.
    pub(super) fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a chain to the driver with the number of bytes written to it.
    pub(super) fn add_used(&mut self, head: u16, written: u32) -> Result<(), DriverFault> {
        self.queue.add_used(self.memory, head, written).map_err(|_| DriverFault::Ring)?;
        self.used_added = true;
        Ok(())
    }

    /// Returns true if the driver wants an interrupt: a chain was returned, and the driver has not disabled interrupts
    /// (2.7.7.2).
    pub(super) fn wants_interrupt(&self) -> bool {
        let flags = || self.memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
        self.used_added
            && flags().is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}

/// Follows a chain to its end. virtio-queue stops where it cannot continue, so a chain whose last descriptor names another one
/// is broken. A chain may not be longer than its queue (2.7.5.3.1), in an indirect table too.
fn check(
    chain: virtio_queue::DescriptorChain<&DmaMemory>,
    head: u16,
    max_size: u16,
) -> Result<(), DriverFault> {
    let (mut length, mut writes, mut ended) = (0, false, false);
    for descriptor in chain {
        let descriptor: Descriptor = descriptor;
        length += 1;
        if length > max_size {
            return Err(DriverFault::Chain(head));
        }
        if writes && !descriptor.is_write_only() {
            return Err(DriverFault::Order(head));
        }
        writes = descriptor.is_write_only();
        ended = !descriptor.has_next();
    }
    if ended { Ok(()) } else { Err(DriverFault::Chain(head)) }
}
