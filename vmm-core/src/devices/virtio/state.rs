//! A device as bytes, for checkpoints: its transport's registers and queues, then what its kind has of its own.
//!
//! An image, an overlay that lasts, and what a terminal printed are outside of the machine and not in here.

use virtio_queue::{Queue, QueueState};

use super::queue::{QueueConfig, QueueSlot};
use super::transport::{MmioRegisters, Transport};
use crate::devices::device::StateMismatch;

/// Numbers saved of each queue.
const PER_QUEUE: usize = 11;
/// Numbers saved of the registers.
const PER_DEVICE: usize = 6;

pub(super) fn save(transport: &Transport) -> Vec<u8> {
    let MmioRegisters {
        status,
        interrupts,
        features,
        device_features_select,
        driver_features_select,
        queue_select,
    } = transport.registers;
    let (device_select, driver_select) = (device_features_select.into(), driver_features_select.into());
    let mut numbers =
        vec![status.into(), interrupts.into(), features, device_select, driver_select, queue_select.into()];
    numbers.extend(transport.seats.iter().flat_map(seat));
    let mut bytes: Vec<u8> = numbers.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes.extend(transport.service.save());
    bytes
}

fn seat(seat: &QueueSlot) -> [u64; PER_QUEUE] {
    let QueueConfig { size, descriptors, available, used } = seat.wanted;
    let state = seat.queue.as_ref().map(Queue::state).unwrap_or_default();
    [
        size.into(),
        descriptors,
        available,
        used,
        seat.queue.is_some().into(),
        state.next_avail.into(),
        state.next_used.into(),
        state.size.into(),
        state.desc_table,
        state.avail_ring,
        state.used_ring,
    ]
}

/// Puts back what [`save`] gave; of another device's state it takes nothing.
pub(super) fn restore(transport: &mut Transport, bytes: &[u8]) -> Result<(), StateMismatch> {
    let (words, _) = bytes.as_chunks::<8>();
    let count = PER_DEVICE + PER_QUEUE * transport.seats.len();
    let numbers: Vec<u64> = words.iter().take(count).map(|word| u64::from_le_bytes(*word)).collect();
    let Some((device, queues)) = numbers.split_first_chunk::<PER_DEVICE>() else {
        return Err(StateMismatch);
    };
    let (queues, _) = queues.as_chunks::<PER_QUEUE>();
    if queues.len() != transport.seats.len() {
        return Err(StateMismatch);
    }
    let seats: Option<Vec<QueueSlot>> =
        transport.seats.iter().zip(queues).map(|(seat, numbers)| restored(seat.most, numbers)).collect();
    let (Some(registers), Some(seats)) = (registers(device), seats) else { return Err(StateMismatch) };
    transport.service.restore(bytes.get(8 * count..).unwrap_or_default())?;
    transport.registers = registers;
    transport.seats = seats;
    Ok(())
}

fn registers(numbers: &[u64; PER_DEVICE]) -> Option<MmioRegisters> {
    let [status, interrupts, features, device_select, driver_select, queue_select] = *numbers;
    Some(MmioRegisters {
        status: u32::try_from(status).ok()?,
        interrupts: u32::try_from(interrupts).ok()?,
        features,
        device_features_select: u32::try_from(device_select).ok()?,
        driver_features_select: u32::try_from(driver_select).ok()?,
        queue_select: u32::try_from(queue_select).ok()?,
    })
}

fn restored(most: u16, numbers: &[u64; PER_QUEUE]) -> Option<QueueSlot> {
    let [
        wanted_size,
        descriptors,
        available,
        used,
        ready,
        next_avail,
        next_used,
        size,
        desc_table,
        avail_ring,
        used_ring,
    ] = *numbers;
    let mut seat = QueueSlot::new(most);
    seat.wanted = QueueConfig { size: u32::try_from(wanted_size).ok()?, descriptors, available, used };
    if ready != 0 {
        let state = QueueState {
            max_size: most,
            next_avail: u16::try_from(next_avail).ok()?,
            next_used: u16::try_from(next_used).ok()?,
            event_idx_enabled: false,
            size: u16::try_from(size).ok()?,
            ready: true,
            desc_table,
            avail_ring,
            used_ring,
        };
        seat.queue = Some(Queue::try_from(state).ok()?);
    }
    Some(seat)
}
