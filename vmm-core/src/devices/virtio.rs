//! Virtio devices (Virtual I/O Device Version 1.2): disks, terminals, random numbers. Section numbers in here are that
//! document's.
//!
//! A driver in the guest and a device share memory: rings that say which buffers hold requests, and which are done. The
//! driver finds the device by its registers, agrees with it on features, and writes one register when there is work. All
//! else goes through guest memory, so nothing a driver says is taken for granted.
//!
//! | file | step |
//! |---|---|
//! | `transport.rs` | the registers: discovery, agreement, notification (4.2) |
//! | `service.rs` | what each kind of device adds to them |
//! | `queue.rs` | rings and chains of buffers (2.7), by virtio-queue |
//! | `memory.rs` | guest memory as a device may use it |
//! | `fault.rs` | what a driver can do wrong |
//! | `block.rs`, `disk.rs`, `disk_error.rs` | a disk, and the files behind it (5.2) |
//! | `console.rs` | a terminal (5.3) |
//! | `entropy.rs` | random numbers (5.4) |
//! | `state.rs` | registers and queues as bytes, for checkpoints |

mod block;
mod console;
mod device;
mod disk;
mod disk_error;
mod driver_error;
mod entropy;
mod memory;
mod queue;
mod state;
#[cfg(test)]
mod tests;
mod transport;

use crate::devices::bus::SharedDevice;
use crate::devices::console::{Input, Output};
use crate::machine::board::BoardBuilder;
use crate::machine::error::Error;
use crate::spec::virtio::{interrupt, window};
use crate::spec::{DeviceAddress, VirtioSpec};
use device::VirtioDevice;
use memory::Reachable;
#[cfg(test)]
pub(crate) use state::Saved;
use transport::Transport;

pub use disk::check as check_disk;
pub use disk_error::DiskError;
pub use driver_error::DriverFault;

/// Puts the machine's virtio devices where the list says. The console's input goes to the device that is to have it; if none
/// is, `input` is left. The result is the device that wants to be told when there is input.
pub(crate) fn attach(
    board: &mut BoardBuilder<'_>,
    output: &Output,
    input: &mut Option<Box<dyn Input>>,
) -> Result<Option<SharedDevice>, Error> {
    let mut receiver = None;
    let specs = &board.spec.devices.virtio;
    for (index, spec) in specs.iter().enumerate() {
        let (Some(window), Some(line)) = (window(index), interrupt(index)) else {
            return Err(Error::TooManyVirtioDevices { count: specs.len() });
        };
        let line = board.line(line)?;
        let (interrupts, mut receives) = (line.is_connected(), false);
        let service: Box<dyn VirtioDevice> = match spec {
            VirtioSpec::Block(spec) => Box::new(block::VirtioBlock::new(spec)?),
            VirtioSpec::Console { input: wanted } => {
                let input = if *wanted { input.take() } else { None };
                receives = input.is_some();
                Box::new(console::VirtioConsole::new(output.clone(), input))
            }
            VirtioSpec::Entropy => Box::new(entropy::VirtioEntropy),
        };
        let memory = Reachable::new(board.memory(), board.read_only);
        let transport = Transport::new(service, memory, line);
        let at = DeviceAddress::Mmio(window.start());
        let device = board.insert(spec.device_name(), at, window.size(), transport)?;
        if receives && interrupts {
            receiver = Some(device);
        }
    }
    Ok(receiver)
}
