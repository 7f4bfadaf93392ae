//! Interface between the transport and a kind of device: type, features, queues, requests.

use std::io;

use super::driver_error::DriverError;
use super::queue::DescriptorChains;
use crate::devices::device::{InputStatus, StateMismatch};

/// Kind of virtio device.
pub(super) trait VirtioDevice: Send {
    /// Returns the device type (5).
    fn id(&self) -> u32;

    /// Returns the features of this kind (bits 0 to 23).
    fn features(&self) -> u64 {
        0
    }

    /// Returns the maximum size of each queue: powers of two.
    fn queues(&self) -> &'static [u16];

    /// Returns the configuration space, which is read-only.
    fn config(&self) -> &[u8] {
        &[]
    }

    /// Serves the chains of a queue with the negotiated features.
    fn serve(
        &mut self,
        queue: usize,
        chains: &mut DescriptorChains<'_>,
        features: u64,
    ) -> Result<(), DriverError>;

    /// Returns the queue for input, if this device has the console's.
    fn input_queue(&self) -> Option<usize> {
        None
    }

    /// Copies input to the queue of [`VirtioDevice::input_queue`].
    fn receive_input(&mut self, _: &mut DescriptorChains<'_>) -> Result<InputStatus, DriverError> {
        Ok(InputStatus::Closed)
    }

    /// Polls the input without a buffer, because the driver has provided none.
    fn poll_without_buffer(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Returns the saved state of this kind of device.
    fn save(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Restores what [`VirtioDevice::save`] returned.
    ///
    /// # Errors
    /// [`StateMismatch`]; then the device is unchanged.
    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        if state.is_empty() { Ok(()) } else { Err(StateMismatch) }
    }
}
