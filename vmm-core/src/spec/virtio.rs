//! Virtio devices as plain data: kind, registers and interrupt of each.
//!
//! Registers and interrupt follow from the position of a device in the list, so the board and everything that describes the
//! devices to the guest (ACPI tables, a command line, a test) agree.

use std::path::PathBuf;

use kvm_sys_wrap::Gpa;

use crate::spec::gpa_range::GpaRange;
use crate::spec::host_file::HostFile;

/// Virtio device over MMIO (Virtual I/O Device Version 1.2, chapter 5 and section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtioSpec {
    /// Block device: a disk with a raw image file.
    Block(BlockSpec),
    /// Console device: a terminal with one port.
    Console {
        /// True if the device receives the console's input; at most one device of a machine does.
        input: bool,
    },
    /// Entropy device: random numbers from the host's `getrandom`.
    Entropy,
}

/// Image and write policy of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// Raw image: a file whose size is a multiple of 512 bytes, not 0.
    pub image: HostFile,
    /// Policy for the guest's writes: refused, to the image, or to an overlay.
    pub access: BlockAccess,
}

/// Policy for the guest's writes to a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BlockAccess {
    /// The disk is read-only and refuses writes.
    #[default]
    ReadOnly,
    /// Writes go to an unnamed file that is removed with the machine. The image is not written.
    Temporary,
    /// Writes go to a sparse file, which must not exist yet. The image is not written.
    Overlay(PathBuf),
    /// Writes go to the image itself.
    InPlace,
}

/// Address of the first window; memory below 4 GiB ends before it.
pub(crate) const FIRST_WINDOW: Gpa = Gpa(0xd000_0000);
/// Distance between windows: a page, since guests map whole pages.
const STRIDE: u64 = 0x1000;
/// Length of a virtio device's window in bytes: 0x100 of registers, then the device's configuration space.
pub const WINDOW_LENGTH: u64 = 0x200;
/// Interrupt inputs that no device of a PC uses, in the order in which devices get them. The first three exist on the PIC
/// too.
pub(crate) const LINES: [u32; 11] = [5, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23];
/// Maximum number of virtio devices: one for each free interrupt input.
pub const MAX_DEVICES: usize = LINES.len();

impl VirtioSpec {
    /// Returns the device type (section 5): 2, 3 or 4.
    #[must_use]
    pub const fn id(&self) -> u32 {
        match self {
            Self::Block(_) => 2,
            Self::Console { .. } => 3,
            Self::Entropy => 4,
        }
    }

    /// Returns the name of the device's kind in a configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Block(_) => "block",
            Self::Console { .. } => "console",
            Self::Entropy => "entropy",
        }
    }
}

/// Returns the registers' range of the virtio device at `index` in the list; `None` beyond [`MAX_DEVICES`].
#[must_use]
pub fn window(index: usize) -> Option<GpaRange> {
    let number = u64::try_from(index).ok().filter(|_| index < MAX_DEVICES)?;
    GpaRange::new(FIRST_WINDOW.checked_add(number.checked_mul(STRIDE)?)?, WINDOW_LENGTH)
}

/// Returns the interrupt input (GSI) of the virtio device at `index`: edge-triggered, active high; `None` beyond
/// [`MAX_DEVICES`].
#[must_use]
pub fn interrupt(index: usize) -> Option<u32> {
    LINES.get(index).copied()
}

/// Returns the kernel parameters that announce the devices to a Linux without ACPI:
/// `virtio_mmio.device=512@0xd0000000:5` for each
/// (Documentation/admin-guide/kernel-parameters.txt).
#[must_use]
pub fn linux_parameters(devices: &[VirtioSpec]) -> Vec<String> {
    let windows = (0..devices.len()).filter_map(|index| Some((window(index)?, interrupt(index)?)));
    windows
        .map(|(window, line)| format!("virtio_mmio.device={WINDOW_LENGTH}@{:#x}:{line}", window.start().0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_a_page_and_a_line_of_its_own_and_there_is_an_end() {
        assert_eq!(window(0), GpaRange::new(Gpa(0xd000_0000), 0x200));
        assert_eq!(window(3), GpaRange::new(Gpa(0xd000_3000), 0x200));
        assert_eq!((interrupt(0), interrupt(3)), (Some(5), Some(16)));
        assert_eq!((window(MAX_DEVICES), interrupt(MAX_DEVICES)), (None, None));
        let mut lines = LINES.to_vec();
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), MAX_DEVICES);
    }

    #[test]
    fn linux_is_told_size_address_and_line() {
        let devices = [VirtioSpec::Entropy, VirtioSpec::Console { input: false }];
        assert_eq!(
            linux_parameters(&devices),
            ["virtio_mmio.device=512@0xd0000000:5", "virtio_mmio.device=512@0xd0001000:10"]
        );
    }
}
