//! Source of random numbers (5.4): fills the driver's buffers from the host's `getrandom`.

use std::io::Write;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::device::VirtioDevice;
use super::driver_error::{DriverError, DriverFault};
use super::queue::DescriptorChains;

/// Maximum number of bytes for a request; a device may return less than requested (5.4.6.1).
const MAX_BYTES: usize = 64 << 10;
/// Number of bytes up to which `getrandom` never returns less than requested (getrandom(2)).
const BUFFER_SIZE: usize = 256;

/// Entropy device.
#[derive(Debug)]
pub(super) struct VirtioEntropy;

impl VirtioDevice for VirtioEntropy {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queues(&self) -> &'static [u16] {
        &[64]
    }

    fn serve(&mut self, _: usize, chains: &mut DescriptorChains<'_>, _: u64) -> Result<(), DriverError> {
        while let Some(mut chain) = chains.next()? {
            let length = chain.writer.available_bytes().min(MAX_BYTES);
            if length == 0 {
                return Err(DriverFault::Request {
                    head: chain.head,
                    problem: "it has no room for an answer",
                }
                .into());
            }
            let mut done = 0;
            while done < length {
                let mut bytes = [0; BUFFER_SIZE];
                let count = getrandom(&mut bytes, GetRandomFlags::empty()).map_err(std::io::Error::from)?;
                let piece = bytes.get(..count.min(length - done)).unwrap_or_default();
                chain.writer.write_all(piece)?;
                done += piece.len();
            }
            chains.add_used(chain.head, u32::try_from(done).unwrap_or(u32::MAX))?;
        }
        Ok(())
    }
}
