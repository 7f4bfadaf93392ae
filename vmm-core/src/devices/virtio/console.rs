//! Terminal (5.3): one port, two queues. The driver's output is printed; input goes into its receive buffers.
//!
//! Input is fetched only if there is a buffer for it: when it arrives, when the driver provides buffers, and when it reads the
//! interrupt status. The device keeps no input itself.

use std::io::{Read, Write};

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use super::device::VirtioDevice;
use super::driver_error::{DriverError, DriverFault};
use super::queue::{DescriptorChain, DescriptorChains};
use crate::devices::console::{Input, Output};
use crate::devices::device::InputStatus;

/// Queues of the first port (5.3.2).
const RECEIVE: usize = 0;
/// Maximum number of bytes that are copied at once.
const MAX_BYTES: usize = 1 << 20;
/// Length of the copy buffer in bytes.
const BUFFER_SIZE: usize = 4096;

/// Console device.
pub(super) struct VirtioConsole {
    output: Output,
    input: Option<Box<dyn Input>>,
}

impl VirtioConsole {
    /// A terminal that prints to `output` and receives from `input`, if there is one.
    pub(super) fn new(output: Output, input: Option<Box<dyn Input>>) -> Self {
        Self { output, input }
    }

    /// Copies input to one of the driver's buffers.
    fn fetch(&mut self, chains: &mut DescriptorChains<'_>) -> Result<Fetched, DriverError> {
        let Some(input) = &mut self.input else { return Ok(Fetched::Nothing) };
        let Some(mut chain) = chains.next()? else { return Ok(Fetched::NoRoom) };
        let mut buffer = [0; BUFFER_SIZE];
        let room = chain.writer.available_bytes().min(BUFFER_SIZE);
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else {
            let problem = "a buffer to receive to must be writable";
            return Err(DriverFault::Request { head: chain.head, problem }.into());
        };
        // The guest may wait for an answer to its prompt, so the prompt must be visible.
        self.output.sync()?;
        let count = input.poll(buffer)?;
        if count == 0 {
            chains.put_back();
            return Ok(Fetched::Nothing);
        }
        chain.writer.write_all(buffer.get(..count).unwrap_or_default())?;
        chains.add_used(chain.head, u32::try_from(count).unwrap_or(u32::MAX))?;
        Ok(Fetched::Some)
    }

    fn print(
        &mut self,
        DescriptorChain { head, mut reader, writer }: DescriptorChain<'_>,
    ) -> Result<(), DriverError> {
        let length = reader.available_bytes();
        let problem = match length {
            _ if writer.available_bytes() != 0 => Some("what is to be sent must not be writable"),
            0..=MAX_BYTES => None,
            _ => Some("what is to be sent at once is at most 1 MiB"),
        };
        if let Some(problem) = problem {
            return Err(DriverFault::Request { head, problem }.into());
        }
        let mut buffer = [0; BUFFER_SIZE];
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.output.write_all(buffer.get(..count).unwrap_or_default())?;
        }
    }
}

/// Result of fetching input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fetched {
    Some,
    Nothing,
    NoRoom,
}

impl VirtioDevice for VirtioConsole {
    fn id(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queues(&self) -> &'static [u16] {
        &[64, 64]
    }

    fn serve(&mut self, queue: usize, chains: &mut DescriptorChains<'_>, _: u64) -> Result<(), DriverError> {
        if queue == RECEIVE {
            while self.fetch(chains)? == Fetched::Some {}
            return Ok(());
        }
        while let Some(chain) = chains.next()? {
            let head = chain.head;
            self.print(chain)?;
            chains.add_used(head, 0)?;
        }
        // The output may be a prompt.
        Ok(self.output.sync()?)
    }

    fn input_queue(&self) -> Option<usize> {
        self.input.as_ref().map(|_| RECEIVE)
    }

    fn receive_input(&mut self, chains: &mut DescriptorChains<'_>) -> Result<InputStatus, DriverError> {
        Ok(match self.fetch(chains)? {
            Fetched::Some => InputStatus::Consumed,
            Fetched::NoRoom => InputStatus::Full,
            Fetched::Nothing if self.input.as_ref().is_none_or(|input| input.has_ended()) => {
                InputStatus::Closed
            }
            Fetched::Nothing => InputStatus::Consumed,
        })
    }

    fn poll_without_buffer(&mut self) -> std::io::Result<()> {
        self.input.as_mut().map_or(Ok(0), |input| input.poll(&mut [])).map(|_| ())
    }
}
