//! Errors of a driver. They set DEVICE_NEEDS_RESET (2.1.2); the device then does nothing until it is reset.
//!
//! A device does not try to recover, because that would hide the driver's bug.

use std::io;

/// Mistake of a guest's virtio driver, at which the device stops.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverFault {
    /// The driver set up a queue with an invalid address or size (2.7, 4.2.3.2).
    #[error("queue {queue} {problem}")]
    Queue {
        /// Number of the queue.
        queue: usize,
        /// Problem of the queue: the field, and the reason.
        problem: &'static str,
    },
    /// The available index is ahead by more entries than the queue has (2.7.6).
    #[error("the available index is further ahead than the queue is long")]
    AvailableIndex,
    /// A chain of descriptors begins outside of the descriptor table (2.7.6).
    #[error("a chain begins at descriptor {0}, which the queue does not have")]
    Head(u16),
    /// A loop, a chain longer than the queue or 4 GiB, a next descriptor that is not in the table, a table that is not in
    /// memory, or an indirect table inside of another (2.7.5).
    #[error("the chain of descriptor {0} does not end, or leaves its table")]
    Chain(u16),
    /// A buffer that the device is to read comes after one that it is to write (2.7.4.2).
    #[error("in the chain of descriptor {0} a buffer to read follows one to write")]
    Order(u16),
    /// A buffer is outside of memory, or is to be written and in read-only memory.
    #[error("the chain of descriptor {0} has a buffer that is not in memory, or not writable")]
    Buffer(u16),
    /// A chain of buffers lacks a part of the request that the device expects.
    #[error("the chain of descriptor {head} is no request: {problem}")]
    Request {
        /// Index of the first descriptor of the chain.
        head: u16,
        /// Part of the request that is missing.
        problem: &'static str,
    },
    /// A ring of the queue could not be accessed, although it was checked.
    #[error("a ring is out of reach")]
    Ring,
}

/// Reason for which a device stopped serving a queue.
#[derive(Debug)]
pub(super) enum DriverError {
    /// Mistake of the driver: the device stops.
    Driver(DriverFault),
    /// Error of the host, such as a closed output: the run ends.
    Host(io::Error),
}

impl From<DriverFault> for DriverError {
    fn from(fault: DriverFault) -> Self {
        Self::Driver(fault)
    }
}

impl From<io::Error> for DriverError {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}
