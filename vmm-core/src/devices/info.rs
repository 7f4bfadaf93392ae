//! Declaration of a device: name, address, length, interrupt lines and purpose as constants.

use crate::Gpa;
use crate::spec::BusAddress;

/// Declaration of a built-in device as constants: name, address, length, interrupt lines and purpose. Each device has one
/// beside its code; [`DeviceKind::info`](crate::devices::DeviceKind::info) returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Name of the device on its bus, in tables and messages, and of its table in a configuration. Devices that a
    /// configuration switches together share one.
    pub name: &'static str,
    /// Name of the device with an article, for messages: `the serial port`.
    pub title: &'static str,
    /// Address of the device: fixed, or a default that a configuration can change.
    pub location: DeviceLocation,
    /// Number of ports or bytes that the device occupies.
    pub length: u64,
    /// Interrupt inputs (GSIs) of the device's lines. A virtio device has the one of these that its position in the list
    /// selects.
    pub irqs: &'static [u32],
    /// Purpose of the device for the guest, in a few words.
    pub purpose: &'static str,
}

/// Rule for the address of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceLocation {
    /// The device can be moved by the configuration; this is its default address.
    Movable(BusAddress),
    /// The device is always at this address.
    Fixed(BusAddress),
    /// The device is in the window of its position in the list of virtio devices ([`window`](crate::spec::virtio::window)).
    VirtioWindow {
        /// First address of the first virtio device's window.
        first: Gpa,
    },
}

impl DeviceLocation {
    /// Returns the fixed or default address; for a virtio device that of the first one.
    #[must_use]
    pub const fn address(self) -> BusAddress {
        match self {
            Self::Movable(at) | Self::Fixed(at) => at,
            Self::VirtioWindow { first } => BusAddress::Mmio(first),
        }
    }
}

impl DeviceInfo {
    /// Returns the last port or address of the device at its fixed or default address.
    #[must_use]
    pub fn last(&self) -> u64 {
        let first = match self.location.address() {
            BusAddress::Port(port) => port.0.into(),
            BusAddress::Mmio(address) => address.0,
        };
        first.saturating_add(self.length.saturating_sub(1))
    }
}
