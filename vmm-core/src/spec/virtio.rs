//! Virtio devices: what each is, and where in the machine it sits.
//!
//! A device has no address of its own choice. Its window and its interrupt follow from its place in the list, so that
//! whoever tells the guest of them (the ACPI tables, a command line, a test) and whoever builds them never differ.

use std::path::PathBuf;

use kvm_sys_wrap::Gpa;

use crate::spec::gpa_range::GpaRange;

/// A virtio device (Virtual I/O Device Version 1.2, chapter 5), reached over MMIO (section 4.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VirtioSpec {
    /// A disk, from a raw image file.
    Block(BlockSpec),
    /// A terminal with one port.
    Console {
        /// Whether it receives what comes in on the console; at most one device of a machine does.
        input: bool,
    },
    /// Random numbers, from the host's `getrandom`.
    Entropy,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpec {
    /// The raw image: a file whose size is a multiple of 512 bytes, not 0.
    pub image: PathBuf,
    /// What becomes of the guest's writes.
    pub access: BlockAccess,
}

/// What becomes of the guest's writes to a disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BlockAccess {
    /// There are none: the disk says that it is read-only, and refuses them.
    #[default]
    ReadOnly,
    /// They go to a file without a name, which vanishes with the machine. The image is not written.
    Temporary,
    /// They go to a sparse file, which must not exist yet. The image is not written.
    Overlay(PathBuf),
    /// They go to the image.
    InPlace,
}

/// Where the first window begins; memory below 4 GiB ends before it.
const FIRST_WINDOW: Gpa = Gpa(0xd000_0000);
/// From one window to the next: a page, since guests map whole pages.
const STRIDE: u64 = 0x1000;
/// Bytes of a window: 0x100 of registers, then the device's configuration space.
pub const WINDOW_LENGTH: u64 = 0x200;
/// The inputs of the interrupt controllers that no device of a PC uses, in the order in which they are given out. The
/// first three exist on the old PIC, too.
const LINES: [u32; 11] = [5, 10, 11, 16, 17, 18, 19, 20, 21, 22, 23];
/// So many virtio devices a machine can have: one for each free interrupt.
pub const MAX_DEVICES: usize = LINES.len();

impl VirtioSpec {
    /// The device type (5): 2, 3 or 4.
    #[must_use]
    pub const fn id(&self) -> u32 {
        match self {
            Self::Block(_) => 2,
            Self::Console { .. } => 3,
            Self::Entropy => 4,
        }
    }

    /// The word of the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Block(_) => "block",
            Self::Console { .. } => "console",
            Self::Entropy => "entropy",
        }
    }

    /// The name on the bus, in tables and in messages.
    #[must_use]
    pub const fn device_name(&self) -> &'static str {
        match self {
            Self::Block(_) => "virtio-block",
            Self::Console { .. } => "virtio-console",
            Self::Entropy => "virtio-entropy",
        }
    }
}

/// The first device whose part in a run cannot be had again: its disk is no longer what it was, or what it gave the guest came
/// from outside and is not recorded. A machine with one is not built a second time to repeat a run.
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
    devices.iter().find(|device| !repeats(device)).map(VirtioSpec::device_name)
}

/// The registers of the device at `index` in the list; `None` beyond [`MAX_DEVICES`].
#[must_use]
pub fn window(index: usize) -> Option<GpaRange> {
    let number = u64::try_from(index).ok().filter(|_| index < MAX_DEVICES)?;
    GpaRange::new(FIRST_WINDOW.checked_add(number.checked_mul(STRIDE)?)?, WINDOW_LENGTH)
}

/// The interrupt (GSI) of the device at `index`: edge-triggered, active high; `None` beyond [`MAX_DEVICES`].
#[must_use]
pub fn interrupt(index: usize) -> Option<u32> {
    LINES.get(index).copied()
}

/// What tells a Linux without ACPI of these devices: `virtio_mmio.device=512@0xd0000000:5` for each
/// (Documentation/admin-guide/kernel-parameters.txt).
#[must_use]
pub fn linux_parameters(devices: &[VirtioSpec]) -> Vec<String> {
    let seats = (0..devices.len()).filter_map(|index| Some((window(index)?, interrupt(index)?)));
    seats
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
    fn what_can_be_had_again() {
        let disk = |access| VirtioSpec::Block(BlockSpec { image: PathBuf::new(), access });
        let console = |input| VirtioSpec::Console { input };
        assert_eq!(
            unrepeatable(&[disk(BlockAccess::ReadOnly), disk(BlockAccess::Temporary), console(false)]),
            None
        );
        assert_eq!(unrepeatable(&[console(false), disk(BlockAccess::InPlace)]), Some("virtio-block"));
        assert_eq!(unrepeatable(&[disk(BlockAccess::Overlay(PathBuf::new()))]), Some("virtio-block"));
        assert_eq!(unrepeatable(&[console(true), VirtioSpec::Entropy]), Some("virtio-console"));
        assert_eq!(unrepeatable(&[VirtioSpec::Entropy]), Some("virtio-entropy"));
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
