//! State of a virtio device as bytes, for snapshots and checkpoints: registers and queues of its transport, then the bytes
//! of its device type.
//!
//! An image, a lasting overlay, and printed output are outside of the machine and not saved.

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueState};

use super::queue::{QueueConfig, QueueSlot};
use super::transport::{MmioRegisters, Transport};
use crate::devices::device::{StateMismatch, split_from_bytes, to_bytes};

/// Saved state of a transport.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedVirtio {
    registers: MmioRegisters,
    queues: Vec<SavedQueue>,
}

/// Saved state of a queue.
#[derive(Serialize, Deserialize)]
struct SavedQueue {
    #[serde(rename = "wanted")]
    config: QueueConfig,
    /// Of a queue that is ready.
    ready: Option<SavedRings>,
}

/// Saved state of the rings of a queue that is ready.
#[derive(Serialize, Deserialize)]
struct SavedRings {
    next_avail: u16,
    next_used: u16,
    size: u16,
    desc_table: u64,
    avail_ring: u64,
    used_ring: u64,
}

/// Returns the state of `transport` and of its device type.
pub(super) fn save(transport: &Transport) -> Option<Vec<u8>> {
    let queues = transport.queues.iter().map(SavedQueue::new).collect();
    let mut bytes = to_bytes(&SavedVirtio { registers: transport.registers, queues })?;
    bytes.extend(transport.device.save());
    Some(bytes)
}

/// Restores the result of [`save`].
///
/// # Errors
/// [`StateMismatch`] if it is the state of another kind of device; `transport` is then unchanged.
pub(super) fn restore(transport: &mut Transport, bytes: &[u8]) -> Result<(), StateMismatch> {
    let (SavedVirtio { registers, queues }, rest) = split_from_bytes(bytes)?;
    if queues.len() != transport.queues.len() {
        return Err(StateMismatch);
    }
    let queues: Option<Vec<QueueSlot>> =
        transport.queues.iter().zip(queues).map(|(slot, saved)| saved.into_slot(slot.max_size)).collect();
    let queues = queues.ok_or(StateMismatch)?;
    transport.device.restore(rest)?;
    transport.registers = registers;
    transport.queues = queues;
    Ok(())
}

impl SavedQueue {
    fn new(slot: &QueueSlot) -> Self {
        let ready = slot.queue.as_ref().map(Queue::state).map(|state| SavedRings {
            next_avail: state.next_avail,
            next_used: state.next_used,
            size: state.size,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        });
        Self { config: slot.config, ready }
    }

    /// Returns a queue of at most `max_size` descriptors in this state; `None` if there can be no such queue.
    fn into_slot(self, max_size: u16) -> Option<QueueSlot> {
        let mut slot = QueueSlot::new(max_size);
        slot.config = self.config;
        if let Some(SavedRings { next_avail, next_used, size, desc_table, avail_ring, used_ring }) =
            self.ready
        {
            let state = QueueState {
                max_size,
                next_avail,
                next_used,
                event_idx_enabled: false,
                size,
                ready: true,
                desc_table,
                avail_ring,
                used_ring,
            };
            slot.queue = Some(Queue::try_from(state).ok()?);
        }
        Some(slot)
    }
}
