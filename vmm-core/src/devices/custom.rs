//! Devices that the user of this library supplies.
//!
//! A [`CustomDevice`] is a description and a function that makes the device. The description becomes part of the machine's
//! ([`DeviceSpecs::custom`](crate::spec::DeviceSpecs::custom)), so layout checks, `explain` and traces know the device. The
//! function makes a fresh device for each machine: the one that is built, its copies, and those of a replay.

use std::fmt;
use std::sync::Arc;

use super::resources::{CreatedDevice, DeviceError, DeviceResources};
use crate::devices::bus::SharedDevice;
use crate::devices::device::Device;
use crate::devices::irq::IrqLine;
use crate::spec::{BusAddress, CustomDeviceSpec};

/// Device that the user of this library supplies. Clones make devices with the same function.
#[derive(Clone)]
pub struct CustomDevice {
    spec: CustomDeviceSpec,
    make: Arc<dyn Fn(IrqLine) -> SharedDevice + Send + Sync>,
}

impl CustomDevice {
    /// Creates a device named `name` with `length` ports or addresses from `at` on. `make` is called for each machine that has
    /// it, with the interrupt line of [`CustomDevice::with_irq`] or a disconnected one.
    #[must_use]
    pub fn new<D: Device + 'static>(
        name: impl Into<String>,
        at: BusAddress,
        length: u64,
        make: impl Fn(IrqLine) -> D + Send + Sync + 'static,
    ) -> Self {
        let spec = CustomDeviceSpec { name: name.into(), at, length, irq: None, purpose: String::new() };
        let make = move |line| CreatedDevice::new(make(line)).device;
        Self { spec, make: Arc::new(make) }
    }

    /// Sets the interrupt input (GSI, 0 to 23) of the device's line. The line is connected on machines with
    /// [`Interrupts::Pc`](crate::spec::Interrupts::Pc) only.
    #[must_use]
    pub fn with_irq(mut self, input: u32) -> Self {
        self.spec.irq = Some(input);
        self
    }

    /// Sets what the device does for the guest, in a few words, for tables.
    #[must_use]
    pub fn with_purpose(mut self, purpose: impl Into<String>) -> Self {
        self.spec.purpose = purpose.into();
        self
    }

    /// Returns the device's description for a machine ([`DeviceSpecs::custom`](crate::spec::DeviceSpecs::custom)).
    #[must_use]
    pub const fn spec(&self) -> &CustomDeviceSpec {
        &self.spec
    }
}

impl fmt::Debug for CustomDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CustomDevice").field(&self.spec).finish()
    }
}

/// Makes the device at `index` of the machine's list.
pub(super) fn create(
    index: usize,
    name: &str,
    line: IrqLine,
    resources: &DeviceResources<'_>,
) -> Result<CreatedDevice, DeviceError> {
    let supplied = resources.custom.get(index).filter(|custom| custom.spec.name == name);
    let supplied = supplied.ok_or_else(|| DeviceError::NotSupplied { name: name.to_owned() })?;
    Ok(CreatedDevice { device: (supplied.make)(line), input_fd: None })
}
