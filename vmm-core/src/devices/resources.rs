//! Host resources that devices are made with.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvm_sys_wrap::GuestMemory;

use crate::devices::bus::SharedDevice;
use crate::devices::console::{Input, NoInput, Output};
use crate::devices::custom::CustomDevice;
use crate::devices::device::Device;
use crate::devices::rtc::{AlarmHandle, MemorySizes};
use crate::devices::virtio::DiskError;
use crate::spec::MachineSpec;
use crate::spec::gpa_range::GpaRange;

/// Host resources of a machine's devices.
pub(crate) struct DeviceResources<'a> {
    pub(crate) spec: &'a MachineSpec,
    /// Guest memory, for devices that read and write it on their own.
    pub(crate) memory: GuestMemory,
    /// Memory that the guest cannot write, so its devices must not write it either.
    pub(crate) read_only: &'a [GpaRange],
    /// Output of the console, shared by all devices that print.
    pub(crate) output: Output,
    /// Input of the console, until a device takes it.
    pub(crate) input: Option<ConsoleInput>,
    /// Alarm of the clock, which power management asks for.
    pub(crate) alarm: AlarmHandle,
    /// Computes the memory sizes that firmware leaves in CMOS memory.
    pub(crate) memory_sizes: fn(&MachineSpec) -> MemorySizes,
    /// Devices of [`DeviceSpecs::custom`](crate::spec::DeviceSpecs::custom), in the same order.
    pub(crate) custom: &'a [CustomDevice],
}

/// Input of the console and a descriptor that becomes readable when there is some.
pub(crate) type ConsoleInput = (Box<dyn Input>, Option<OwnedFd>);

impl DeviceResources<'_> {
    /// Takes the console's input if it is wanted and no other device has it.
    pub(crate) fn take_input(&mut self, wanted: bool) -> ConsoleInput {
        let input = if wanted { self.input.take() } else { None };
        input.unwrap_or_else(|| (Box::new(NoInput), None))
    }
}

/// New device.
pub(crate) struct CreatedDevice {
    pub(crate) device: SharedDevice,
    /// Descriptor that becomes readable when [`Device::poll_input`] has something to do.
    pub(crate) input_fd: Option<OwnedFd>,
}

impl CreatedDevice {
    /// A device that waits for nothing.
    pub(crate) fn new(device: impl Device + 'static) -> Self {
        Self { device: Arc::new(Mutex::new(device)), input_fd: None }
    }
}

/// A device cannot be created.
#[derive(Debug)]
pub(crate) enum DeviceError {
    /// The host has no timer for the clock.
    Clock(io::Error),
    /// The image or overlay of a disk cannot be used.
    Disk(DiskError),
    /// The machine's description names a custom device that was not supplied.
    NotSupplied {
        /// Name of the device.
        name: String,
    },
}

impl From<DiskError> for DeviceError {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}
