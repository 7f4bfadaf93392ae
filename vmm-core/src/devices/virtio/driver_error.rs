//! What a driver can do wrong, and what follows: the device wants a reset, and until then does nothing more.
//!
//! Section 2.1.2 of the specification gives a device the bit DEVICE_NEEDS_RESET for this. Guessing what a broken driver may
//! have meant would only hide its bug.

use std::io;

/// What a driver did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverFault {
    /// A queue cannot be where, or as large as, the driver says (2.7, 4.2.3.2).
    #[error("queue {queue} {problem}")]
    Queue {
        /// Its number.
        queue: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// More new entries than the queue has: the available index jumped (2.7.6).
    #[error("the available index is further ahead than the queue is long")]
    AvailableIndex,
    /// A chain that begins outside of the descriptor table (2.7.6).
    #[error("a chain begins at descriptor {0}, which the queue does not have")]
    Head(u16),
    /// A loop, a chain longer than the queue or 4 GiB, a next descriptor that is not in the table, a table that is not in
    /// memory, or an indirect table inside of another (2.7.5).
    #[error("the chain of descriptor {0} does not end, or leaves its table")]
    Chain(u16),
    /// A buffer that the device is to read after one that it is to write (2.7.4.2).
    #[error("in the chain of descriptor {0} a buffer to read follows one to write")]
    Order(u16),
    /// A buffer where no memory is, or one to write in memory that is read-only.
    #[error("the chain of descriptor {0} has a buffer that is not in memory, or not writable")]
    Buffer(u16),
    /// The buffers are not those of such a request.
    #[error("the chain of descriptor {head} is no request: {problem}")]
    Request {
        /// Its first descriptor.
        head: u16,
        /// What is missing.
        problem: &'static str,
    },
    /// A ring could not be read or written, though it was checked.
    #[error("a ring is out of reach")]
    Ring,
}

/// Why a device stopped serving a queue.
#[derive(Debug)]
pub(super) enum DriverError {
    /// The driver's fault: the device goes quiet.
    Driver(DriverFault),
    /// The host's, such as a closed output: the run ends.
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
