//! A queue: where the driver says it lies, and what is taken out of it.
//!
//! virtio-queue knows the rings of a split virtqueue (2.7) and never leaves guest memory. It also goes on where it can: it
//! refuses addresses by keeping the old ones, and ends a chain that it cannot follow as if it were complete. Here those
//! cases are told apart, so that a driver's mistake becomes a [`Fault`] and not a request that was never made.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::{Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::{Bytes, GuestAddress};

use super::driver_error::DriverFault;
use super::memory::Reachable;
use crate::Gpa;
use crate::spec::gpa_range::GpaRange;

/// What the driver has set, valid or not, and the queue that came of it.
#[derive(Debug)]
pub(super) struct QueueSlot {
    /// The largest size, a power of two.
    pub(super) most: u16,
    /// MmioRegisters, as written.
    pub(super) wanted: QueueConfig,
    /// The queue, once the driver has said that it is ready and was right.
    pub(super) queue: Option<Queue>,
}

/// The registers of one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct QueueConfig {
    /// Number of descriptors.
    pub(super) size: u32,
    /// The descriptor table.
    pub(super) descriptors: u64,
    /// The available ring, which the driver writes.
    pub(super) available: u64,
    /// The used ring, which the device writes.
    pub(super) used: u64,
}

impl QueueSlot {
    pub(super) const fn new(most: u16) -> Self {
        Self { most, wanted: QueueConfig { size: 0, descriptors: 0, available: 0, used: 0 }, queue: None }
    }

    /// Takes the queue into service where the driver says that it lies.
    pub(super) fn open(&mut self, number: usize, memory: &Reachable) -> Result<(), DriverFault> {
        let fault = |problem| DriverFault::Queue { queue: number, problem };
        let QueueConfig { size, descriptors, available, used } = self.wanted;
        let mut queue = Queue::new(self.most).map_err(|_| fault("does not exist"))?;
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
        // Sizes by 2.7: 16 bytes a descriptor; 2 and 8 bytes an entry, behind two fields of 2 bytes. Another field follows
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

/// The buffers of one request: first those that the device reads, then those that it writes.
pub(super) struct DescriptorChain<'a> {
    /// The first descriptor, by which the driver knows the request again.
    pub(super) head: u16,
    /// What the driver says.
    pub(super) reader: Reader<'a>,
    /// Room for the answer.
    pub(super) writer: Writer<'a>,
}

/// What the driver has put into a queue. One look at it gives at most as many chains as the queue has entries, so a driver
/// that adds more all the time, or lets its rings say so, does not keep the device busy forever.
pub(super) struct DescriptorChains<'a> {
    queue: &'a mut Queue,
    memory: &'a Reachable,
    most: u16,
    left: u16,
    answered: bool,
}

impl<'a> DescriptorChains<'a> {
    /// The chains of the queue at `seat`; `None` if it is not in service.
    pub(super) fn of(seat: &'a mut QueueSlot, memory: &'a Reachable) -> Option<Self> {
        let queue = seat.queue.as_mut()?;
        let left = queue.size();
        Some(Self { queue, memory, most: seat.most, left, answered: false })
    }

    /// The next one.
    pub(super) fn next(&mut self) -> Result<Option<DescriptorChain<'a>>, DriverFault> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut iterator = self.queue.iter(self.memory).map_err(|error| {
            let jumped = matches!(error, virtio_queue::Error::InvalidAvailRingIndex);
            if jumped { DriverFault::AvailableIndex } else { DriverFault::Ring }
        })?;
        let Some(chain) = iterator.next() else { return Ok(None) };
        self.left -= 1;
        let head = chain.head_index();
        if head >= self.queue.size() {
            return Err(DriverFault::Head(head));
        }
        check(chain.clone(), head, self.most)?;
        let reader = chain.clone().reader(self.memory).map_err(|_| DriverFault::Buffer(head))?;
        let writer = chain.writer(self.memory).map_err(|_| DriverFault::Buffer(head))?;
        Ok(Some(DescriptorChain { head, reader, writer }))
    }

    /// Puts back the chain that was taken last, for another time.
    pub(super) fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a chain back to the driver, with the number of bytes written to it.
    pub(super) fn done(&mut self, head: u16, written: u32) -> Result<(), DriverFault> {
        self.queue.add_used(self.memory, head, written).map_err(|_| DriverFault::Ring)?;
        self.answered = true;
        Ok(())
    }

    /// Whether the driver is to be interrupted: something was given back, and the driver has not said that it looks for
    /// itself (2.7.7.2).
    pub(super) fn wants_interrupt(&self) -> bool {
        let flags = || self.memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
        self.answered
            && flags().is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }
}

/// Follows a chain to its end. virtio-queue stops wherever it cannot go on, so one whose last descriptor names another is
/// broken. No driver may make one longer than its queue (2.7.5.3.1), in an indirect table neither.
fn check(chain: virtio_queue::DescriptorChain<&Reachable>, head: u16, most: u16) -> Result<(), DriverFault> {
    let (mut length, mut writes, mut ended) = (0, false, false);
    for descriptor in chain {
        let descriptor: Descriptor = descriptor;
        length += 1;
        if length > most {
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
