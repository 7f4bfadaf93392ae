//! What a kind of device is to the transport: its type, its queues, and what it does with what is in them.

use std::io;

use super::driver_error::DriverError;
use super::queue::DescriptorChains;
use crate::devices::device::{InputStatus, StateMismatch};

/// What a kind of device does.
pub(super) trait VirtioDevice: Send {
    /// The device type (5).
    fn id(&self) -> u32;

    /// The features that it offers of its own kind (bits 0 to 23).
    fn features(&self) -> u64 {
        0
    }

    /// The largest size of each of its queues: powers of two.
    fn queues(&self) -> &'static [u16];

    /// The configuration space, as the driver reads it. None of ours can be written.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Serves what the driver has put into a queue, given the features that were agreed on.
    fn serve(
        &mut self,
        queue: usize,
        chains: &mut DescriptorChains<'_>,
        features: u64,
    ) -> Result<(), DriverError>;

    /// The queue that input goes to, if this device has the console's.
    fn receives(&self) -> Option<usize> {
        None
    }

    /// Takes what has arrived to the queue of [`VirtioDevice::receives`].
    fn receive(&mut self, _: &mut DescriptorChains<'_>) -> Result<InputStatus, DriverError> {
        Ok(InputStatus::Closed)
    }

    /// The same where the driver has no room for it, or is not there yet.
    fn receive_nothing(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// What it has inside of the machine, for checkpoints.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Puts back what [`VirtioDevice::save`] gave.
    ///
    /// # Errors
    /// [`StateMismatch`]; then it is as it was.
    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        if state.is_empty() { Ok(()) } else { Err(StateMismatch) }
    }
}
