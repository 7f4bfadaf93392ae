//! Virtio devices (Virtual I/O Device Version 1.2): disks, terminals, random numbers. Section numbers refer to that document.
//!
//! Driver and device share rings in guest memory with the buffers of requests. The driver finds the device by its registers,
//! negotiates features, and writes a register when there are requests. Everything in guest memory is checked before use.
//!
//! | file | part |
//! |---|---|
//! | `transport.rs` | registers: discovery, feature negotiation, notification (4.2) |
//! | `device.rs` | interface of a kind of device |
//! | `queue.rs` | rings and chains of buffers (2.7), by virtio-queue |
//! | `memory.rs` | guest memory with the permissions of a device |
//! | `driver_error.rs` | mistakes of drivers |
//! | `block.rs`, `disk.rs`, `disk_error.rs` | a disk and its files (5.2) |
//! | `console.rs` | a terminal (5.3) |
//! | `entropy.rs` | random numbers (5.4) |
//! | `state.rs` | saved form |

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

use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::devices::irq::IrqLine;
use crate::devices::resources::{CreatedDevice, DeviceError, DeviceResources};
use crate::spec::virtio::{FIRST_WINDOW, LINES, WINDOW_LENGTH};
use crate::spec::{BlockAccess, VirtioSpec};
use device::VirtioDevice;
use memory::DmaMemory;
#[cfg(test)]
pub(crate) use state::SavedVirtio;
use transport::Transport;

pub use disk::check as check_disk;
pub use disk_error::DiskError;
pub use driver_error::DriverFault;

/// Declaration of the disk.
pub(super) const BLOCK: DeviceInfo = declaration("virtio-block", "a disk, from a raw image file");
/// Declaration of the terminal.
pub(super) const CONSOLE: DeviceInfo = declaration("virtio-console", "a terminal with one port");
/// Declaration of the source of random numbers.
pub(super) const ENTROPY: DeviceInfo =
    declaration("virtio-entropy", "random numbers, from the host's getrandom");

/// Returns the declaration of a virtio device. They differ in name and purpose only.
const fn declaration(name: &'static str, purpose: &'static str) -> DeviceInfo {
    DeviceInfo {
        name,
        title: "a virtio device",
        location: DeviceLocation::VirtioWindow { first: FIRST_WINDOW },
        length: WINDOW_LENGTH,
        irqs: &LINES,
        purpose,
    }
}

/// Creates the device at `index` of the machine's list. The first terminal that wants the console's input gets it.
pub(super) fn create(
    index: usize,
    line: IrqLine,
    resources: &mut DeviceResources<'_>,
) -> Result<CreatedDevice, DeviceError> {
    let mut input_fd = None;
    let device: Box<dyn VirtioDevice> = match resources.spec.devices.virtio.get(index) {
        Some(VirtioSpec::Block(spec)) => Box::new(block::VirtioBlock::new(spec)?),
        Some(VirtioSpec::Console { input }) => {
            let input = resources.input.take_if(|_| *input);
            let (input, readable) = input.unzip();
            input_fd = readable.flatten();
            Box::new(console::VirtioConsole::new(resources.output.clone(), input))
        }
        Some(VirtioSpec::Entropy) => Box::new(entropy::VirtioEntropy),
        None => return Err(DeviceError::NotSupplied { name: format!("virtio device {}", index + 1) }),
    };
    let memory = DmaMemory::new(resources.memory.clone(), resources.read_only);
    let input_fd = input_fd.filter(|_| line.is_connected());
    Ok(CreatedDevice { input_fd, ..CreatedDevice::new(Transport::new(device, memory, line)) })
}

/// Returns the name of the first device whose part in a run cannot be repeated: its disk has changed, or its input came from
/// outside and is not recorded. A machine with such a device is not built a second time to repeat a run.
#[must_use]
pub fn unrepeatable(devices: &[VirtioSpec]) -> Option<&'static str> {
    let repeats = |device: &&VirtioSpec| match device {
        VirtioSpec::Block(block) => match block.access {
            BlockAccess::ReadOnly | BlockAccess::Temporary => true,
            BlockAccess::Overlay(_) | BlockAccess::InPlace => false,
        },
        VirtioSpec::Console { input } => !input,
        VirtioSpec::Entropy => false,
    };
    devices.iter().find(|device| !repeats(device)).map(|device| info(device).name)
}

/// Returns the declaration of a device.
const fn info(device: &VirtioSpec) -> &'static DeviceInfo {
    match device {
        VirtioSpec::Block(_) => &BLOCK,
        VirtioSpec::Console { .. } => &CONSOLE,
        VirtioSpec::Entropy => &ENTROPY,
    }
}
