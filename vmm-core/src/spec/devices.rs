//! Devices of a machine as plain data: which there are, their addresses and their settings.
//!
//! Names, lengths, default addresses and interrupt lines are not here. Each device declares its own, and
//! [`DeviceKind`](crate::devices::DeviceKind) lists them.

use std::fmt;

use kvm_sys_wrap::{Gpa, Port};

use crate::spec::platform::PlatformSpec;
use crate::spec::virtio::VirtioSpec;

/// Devices of a machine and their addresses; `None` leaves one out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpecs {
    /// Debug console of Bochs and QEMU: a byte written here goes to the console.
    pub debug_console: Option<DebugConsoleSpec>,
    /// Serial port, a 16550.
    pub serial: Option<SerialSpec>,
    /// Exit port: a write ends the run, as with QEMU's isa-debug-exit.
    pub debug_exit: Option<DebugExitSpec>,
    /// Hypercall registers, by which the guest prints, ends and reads arguments.
    pub hypercall: Option<HypercallSpec>,
    /// Devices and firmware tables of a PC. Default: none.
    pub platform: PlatformSpec,
    /// Virtio devices: disks, terminals, random numbers. The position in this list decides on registers and interrupt
    /// ([`virtio::window`](crate::spec::virtio::window)). Default: none.
    pub virtio: Vec<VirtioSpec>,
    /// Devices that the user of this library supplies. [`Machine::build_with_devices`](crate::machine::Machine) fills this
    /// list; code that only needs the memory layout can fill it without a device. Default: none.
    pub custom: Vec<CustomDeviceSpec>,
}

/// First address of a device or of an access: an I/O port or a guest-physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BusAddress {
    /// Number of an I/O port.
    Port(Port),
    /// Guest-physical address.
    Mmio(Gpa),
}

/// `port 0x3f8` or `address 0xd0000000`.
impl fmt::Display for BusAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Mmio(address) => write!(f, "address {address}"),
        }
    }
}

/// Address and settings of the debug console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugConsoleSpec {
    /// Address of the debug console's register.
    pub at: BusAddress,
    /// True if the kernel is to collect the bytes that are written to the port, where it can, instead of an exit for each.
    /// Only without interrupts: a vCPU that sleeps in the kernel would keep what it wrote.
    pub collect: bool,
}

/// Address and settings of the serial port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SerialSpec {
    /// Address of the serial port's first register.
    pub at: BusAddress,
    /// True if the serial port receives the console's input.
    pub input: bool,
}

/// Address and settings of the exit port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugExitSpec {
    /// Address of the exit port's register, which takes accesses of 1, 2 and 4 bytes.
    pub at: BusAddress,
    /// Values that end the run with success when the guest writes them. Any other value `v` ends the run with the code
    /// `v * 2 + 1`, as in QEMU.
    pub success: Vec<u32>,
}

/// Address and settings of the hypercall registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HypercallSpec {
    /// Address of the first register.
    pub at: BusAddress,
    /// True if the guest can read the host virtual addresses of its memory, which help an attack on this process.
    pub host_addresses: bool,
}

/// Description of a device that the user of this library supplies
/// ([`CustomDevice`](crate::devices::custom::CustomDevice)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomDeviceSpec {
    /// Name of the device in tables and messages.
    pub name: String,
    /// First I/O port or guest-physical address of the device.
    pub at: BusAddress,
    /// Number of ports or bytes that the device occupies, at least 1.
    pub length: u64,
    /// Interrupt input (GSI) of the device's line; connected on machines with [`Interrupts::Pc`](crate::spec::Interrupts::Pc).
    pub irq: Option<u32>,
    /// Purpose of the device for the guest, in a few words.
    pub purpose: String,
}

/// Setting of a device besides its address, by the name that a configuration has for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSetting {
    /// Name of the device that has the setting.
    pub device: &'static str,
    /// Name of the setting in a configuration.
    pub name: &'static str,
    /// Value of the setting as TOML.
    pub value: String,
}

impl DeviceSpecs {
    /// Returns the settings of all movable devices of the machine, those with default values too. A setting that a later version
    /// of this library added is left out at its default, so that saved snapshots fit.
    #[must_use]
    pub fn settings(&self) -> Vec<DeviceSetting> {
        let Self { debug_console, serial, debug_exit, hypercall, platform: _, virtio: _, custom: _ } = self;
        let mut settings = Vec::new();
        let mut add = |device, name, value| settings.push(DeviceSetting { device, name, value });
        if let Some(DebugConsoleSpec { at: _, collect }) = debug_console {
            add("debug-console", "collect", collect.to_string());
        }
        if let Some(SerialSpec { at: _, input }) = serial {
            add("serial", "input", input.to_string());
        }
        if let Some(DebugExitSpec { at: _, success }) = debug_exit {
            add("debug-exit", "success", format!("{success:?}"));
        }
        if let Some(HypercallSpec { at: _, host_addresses: true }) = hypercall {
            add("hypercall", "host-addresses", true.to_string());
        }
        settings
    }
}
