//! Devices of a machine: registers and their meaning. A device knows neither KVM nor the board that it is on.
//!
//! The table of [`DeviceKind`] is the list of all of them. Each device declares name, address, length, interrupt lines and
//! purpose beside its code ([`DeviceInfo`]); layout, checks, `explain` and the documentation read them from there.
//! [`installed`] says which of them a machine has, and `create` makes them.

pub mod acpi_pm;
pub mod bus;
pub mod console;
pub mod crtc;
pub mod custom;
mod debug_console;
mod debug_exit;
pub mod device;
pub mod fw_cfg;
pub(crate) mod hypercall;
pub mod i8042;
pub mod info;
pub mod irq;
pub(crate) mod irqchip;
pub mod kvm_testdev;
pub mod null_ports;
pub mod reset_ports;
mod resources;
pub mod rtc;
pub(crate) mod serial;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod test_doubles;
pub mod virtio;

use crate::spec::virtio::{MAX_DEVICES, window};
use crate::spec::{
    BusAddress, DebugConsoleSpec, DebugExitSpec, DeviceSpecs, HypercallSpec, PlatformSpec, SerialSpec,
    VirtioSpec,
};
use crate::{Gpa, Port};
use irq::IrqLine;

pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use hypercall::{HostAddresses, Hypercall, HypercallStatus};
pub use info::{DeviceInfo, DeviceLocation};
pub use irqchip::InterruptSource;
pub use irqchip::status::InterruptObstacle;
pub(crate) use resources::{CreatedDevice, DeviceError, DeviceResources};
pub use serial::Serial;

/// Declares [`DeviceKind`] with the declaration of each device.
macro_rules! device_kinds {
    ($($(#[doc = $doc:literal])+ $kind:ident = $info:path;)+) => {
        /// Kind of a built-in device, such as the serial port.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DeviceKind {
            $($(#[doc = $doc])+ $kind,)+
        }

        impl DeviceKind {
            /// All kinds of built-in devices: movable ones first, then those of a PC by address, then virtio devices.
            pub const ALL: &'static [Self] = &[$(Self::$kind),+];

            /// Returns the declaration of the device.
            #[must_use]
            pub const fn info(self) -> &'static DeviceInfo {
                match self {
                    $(Self::$kind => &$info,)+
                }
            }
        }
    };
}

device_kinds! {
    /// Debug console of Bochs and QEMU: bytes that the guest writes are printed.
    DebugConsole = debug_console::DEVICE;
    /// Serial port, a 16550.
    Serial = serial::DEVICE;
    /// Exit port: a write of the guest ends the run.
    DebugExit = debug_exit::DEVICE;
    /// Hypercall registers, by which the guest prints, ends and reads arguments.
    Hypercall = hypercall::DEVICE;
    /// Keyboard controller, an Intel 8042 without a keyboard.
    I8042 = i8042::DEVICE;
    /// Real-time clock with CMOS memory.
    Rtc = rtc::DEVICE;
    /// Diagnostic port of a PC (POST codes).
    Diagnostic = null_ports::DIAGNOSTIC;
    /// System control port A of a PC.
    SystemControl = reset_ports::SYSTEM_CONTROL;
    /// Test device of kvm-unit-tests: bytes at ports.
    TestPorts = kvm_testdev::PORTS;
    /// Port that kernels write for short delays.
    Delay = null_ports::DELAY;
    /// CRT controller registers of an absent display.
    Crtc = crtc::DEVICE;
    /// Configuration device of QEMU (fw_cfg).
    FwCfg = fw_cfg::DEVICE;
    /// Power management of ACPI: power-off, suspend and timer.
    Power = acpi_pm::DEVICE;
    /// Address port of an absent PCI bus.
    PciAddress = null_ports::PCI_ADDRESS;
    /// Reset control register of a PC's chipset.
    ResetControl = reset_ports::RESET_CONTROL;
    /// Data ports of an absent PCI bus.
    PciData = null_ports::PCI_DATA;
    /// Test device of kvm-unit-tests: interrupt inputs.
    TestLines = kvm_testdev::LINES;
    /// Test device of kvm-unit-tests: bytes in the address space.
    TestMemory = kvm_testdev::MEMORY;
    /// Virtio block device: a disk.
    VirtioBlock = virtio::BLOCK;
    /// Virtio console device: a terminal.
    VirtioConsole = virtio::CONSOLE;
    /// Virtio entropy device: random numbers.
    VirtioEntropy = virtio::ENTROPY;
}

impl DeviceKind {
    /// Returns the address of the device in a machine; `None` if the machine has no such device, and for virtio devices, whose
    /// addresses follow from their positions ([`installed`]).
    #[must_use]
    pub fn address(self, specs: &DeviceSpecs) -> Option<BusAddress> {
        let DeviceSpecs { debug_console, serial, debug_exit, hypercall, platform, virtio: _, custom: _ } =
            specs;
        match self {
            Self::DebugConsole => debug_console.map(|console| console.at),
            Self::Serial => serial.map(|serial| serial.at),
            Self::DebugExit => debug_exit.as_ref().map(|exit| exit.at),
            Self::Hypercall => hypercall.map(|hypercall| hypercall.at),
            Self::I8042
            | Self::Rtc
            | Self::Diagnostic
            | Self::SystemControl
            | Self::TestPorts
            | Self::Delay
            | Self::Crtc
            | Self::FwCfg
            | Self::Power
            | Self::PciAddress
            | Self::ResetControl
            | Self::PciData
            | Self::TestLines
            | Self::TestMemory
            | Self::VirtioBlock
            | Self::VirtioConsole
            | Self::VirtioEntropy => self.is_part_of(platform).then(|| self.info().location.address()),
        }
    }

    /// Returns true if a PC with these parts has the device.
    #[must_use]
    pub const fn is_part_of(self, platform: &PlatformSpec) -> bool {
        match self {
            Self::I8042 => platform.i8042,
            Self::Rtc => platform.rtc,
            Self::Diagnostic
            | Self::SystemControl
            | Self::Delay
            | Self::Crtc
            | Self::PciAddress
            | Self::PciData => platform.legacy_ports,
            Self::FwCfg => platform.fw_cfg.is_some(),
            Self::Power | Self::ResetControl => platform.power,
            Self::TestPorts | Self::TestLines | Self::TestMemory => platform.kvm_testdev,
            Self::DebugConsole
            | Self::Serial
            | Self::DebugExit
            | Self::Hypercall
            | Self::VirtioBlock
            | Self::VirtioConsole
            | Self::VirtioEntropy => false,
        }
    }

    /// Returns the device whose fixed or default ports include `port`.
    #[must_use]
    pub fn at_port(port: Port) -> Option<Self> {
        let port = port.0.into();
        Self::ALL.iter().copied().find(|kind| {
            let info = kind.info();
            let first = info.location.address();
            matches!(first, BusAddress::Port(first) if (first.0.into()..=info.last()).contains(&port))
        })
    }

    /// Returns the kind of a virtio device.
    #[must_use]
    pub const fn from_virtio(device: &VirtioSpec) -> Self {
        match device {
            VirtioSpec::Block(_) => Self::VirtioBlock,
            VirtioSpec::Console { .. } => Self::VirtioConsole,
            VirtioSpec::Entropy => Self::VirtioEntropy,
        }
    }
}

impl Default for DeviceSpecs {
    /// All movable devices at their default addresses, and nothing else.
    fn default() -> Self {
        let at = |kind: DeviceKind| kind.info().location.address();
        Self {
            debug_console: Some(DebugConsoleSpec { at: at(DeviceKind::DebugConsole), collect: false }),
            serial: Some(SerialSpec { at: at(DeviceKind::Serial), input: true }),
            debug_exit: Some(DebugExitSpec { at: at(DeviceKind::DebugExit), success: vec![0] }),
            hypercall: Some(HypercallSpec { at: at(DeviceKind::Hypercall), host_addresses: false }),
            platform: PlatformSpec::default(),
            virtio: Vec::new(),
            custom: Vec::new(),
        }
    }
}

/// Device of a machine, with its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstalledDevice<'a> {
    /// Origin of the device: built in, virtio, or supplied by the user of this library.
    pub source: DeviceSource,
    /// Name of the device in tables and messages.
    pub name: &'a str,
    /// Name of the device with an article, for messages; that of a user's device is its name.
    pub title: &'a str,
    /// First I/O port or guest-physical address of the device.
    pub at: BusAddress,
    /// Number of ports or bytes that the device occupies.
    pub length: u64,
    /// Interrupt inputs (GSIs), connected on machines with [`Interrupts::Pc`](crate::spec::Interrupts::Pc).
    pub irqs: &'a [u32],
    /// Purpose of the device for the guest, in a few words.
    pub purpose: &'a str,
}

/// Origin of a device of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceSource {
    /// Built-in device, which a machine has at most once.
    BuiltIn(DeviceKind),
    /// Virtio device, by its position in [`DeviceSpecs::virtio`].
    Virtio(usize),
    /// Device of the library's user, by its position in [`DeviceSpecs::custom`].
    Custom(usize),
}

impl InstalledDevice<'_> {
    /// Returns true if the device has the given port.
    #[must_use]
    pub fn has_port(&self, port: Port) -> bool {
        let port = port.0.into();
        matches!(self.at, BusAddress::Port(first) if (first.0.into()..=self.last()).contains(&port))
    }

    /// Returns the last port or address of the device.
    #[must_use]
    pub fn last(&self) -> u64 {
        let first = match self.at {
            BusAddress::Port(port) => port.0.into(),
            BusAddress::Mmio(address) => address.0,
        };
        first.saturating_add(self.length.saturating_sub(1))
    }

    /// Returns address and length of a device in the address space; `None` for a device at ports.
    #[must_use]
    pub const fn window(&self) -> Option<(Gpa, u64)> {
        match self.at {
            BusAddress::Mmio(address) => Some((address, self.length)),
            BusAddress::Port(_) => None,
        }
    }
}

/// Returns the devices of a machine in the order in which they are created and connected. Virtio devices beyond
/// [`MAX_DEVICES`] are left out.
#[must_use]
pub fn installed(specs: &DeviceSpecs) -> Vec<InstalledDevice<'_>> {
    let virtio = specs.virtio.iter().take(MAX_DEVICES).enumerate().filter_map(|(index, device)| {
        let info = DeviceKind::from_virtio(device).info();
        Some(InstalledDevice {
            source: DeviceSource::Virtio(index),
            name: info.name,
            title: info.title,
            at: BusAddress::Mmio(window(index)?.start()),
            length: info.length,
            irqs: info.irqs.get(index..=index)?,
            purpose: info.purpose,
        })
    });
    let built_in = DeviceKind::ALL.iter().filter_map(|kind| {
        let info = kind.info();
        Some(InstalledDevice {
            source: DeviceSource::BuiltIn(*kind),
            name: info.name,
            title: info.title,
            at: kind.address(specs)?,
            length: info.length,
            irqs: info.irqs,
            purpose: info.purpose,
        })
    });
    let custom = specs.custom.iter().enumerate().map(|(index, device)| InstalledDevice {
        source: DeviceSource::Custom(index),
        name: &device.name,
        title: &device.name,
        at: device.at,
        length: device.length,
        irqs: device.irq.as_slice(),
        purpose: &device.purpose,
    });
    virtio.chain(built_in).chain(custom).collect()
}

/// Creates a device of a machine. `lines` are its interrupt lines, in the order of [`InstalledDevice::irqs`].
pub(crate) fn create(
    device: &InstalledDevice<'_>,
    lines: Vec<IrqLine>,
    resources: &mut DeviceResources<'_>,
) -> Result<CreatedDevice, DeviceError> {
    let kind = match device.source {
        DeviceSource::BuiltIn(kind) => kind,
        DeviceSource::Virtio(index) => return virtio::create(index, first(lines), resources),
        DeviceSource::Custom(index) => return custom::create(index, device.name, first(lines), resources),
    };
    let spec = resources.spec;
    Ok(match kind {
        DeviceKind::DebugConsole => CreatedDevice::new(DebugConsole::new(resources.output.clone())),
        DeviceKind::Serial => {
            let wants_input = spec.devices.serial.is_some_and(|serial| serial.input);
            let (input, input_fd) = resources.take_input(wants_input);
            let line = first(lines);
            let input_fd = input_fd.filter(|_| line.is_connected());
            let serial = Serial::new(resources.output.clone(), input, line);
            CreatedDevice { input_fd, ..CreatedDevice::new(serial) }
        }
        DeviceKind::DebugExit => {
            let success = spec.devices.debug_exit.as_ref().map(|exit| exit.success.clone());
            CreatedDevice::new(DebugExit::new(success.unwrap_or_default()))
        }
        DeviceKind::Hypercall => {
            let host = Box::new(resources.memory.clone());
            let shows_host = spec.devices.hypercall.is_some_and(|hypercall| hypercall.host_addresses);
            let device = Hypercall::new(resources.output.clone(), &spec.arguments, host);
            CreatedDevice::new(device.with_host_addresses(shows_host))
        }
        DeviceKind::I8042 => CreatedDevice::new(i8042::I8042::default()),
        DeviceKind::Rtc => {
            let sizes = (resources.memory_sizes)(spec);
            let clock = rtc::Rtc::new(sizes, first(lines), resources.alarm.clone());
            let clock = clock.map_err(DeviceError::Clock)?;
            let input_fd = clock.descriptor().map_err(DeviceError::Clock)?;
            CreatedDevice { input_fd, ..CreatedDevice::new(clock) }
        }
        DeviceKind::Diagnostic | DeviceKind::Delay | DeviceKind::PciAddress | DeviceKind::PciData => {
            CreatedDevice::new(null_ports::NullPorts::new(device.length))
        }
        DeviceKind::SystemControl => CreatedDevice::new(reset_ports::SystemControl::default()),
        DeviceKind::ResetControl => CreatedDevice::new(reset_ports::ResetControl::default()),
        DeviceKind::Crtc => CreatedDevice::new(crtc::Crtc::default()),
        DeviceKind::FwCfg => {
            let files = spec.devices.platform.fw_cfg.as_ref().map_or(&[][..], |fw_cfg| &fw_cfg.files);
            let memory = spec.memory.iter().fold(0u64, |sum, region| sum.saturating_add(region.size));
            let cpus = u16::try_from(spec.vcpus).unwrap_or(u16::MAX);
            CreatedDevice::new(fw_cfg::FwCfg::new(memory, cpus, files))
        }
        DeviceKind::Power => CreatedDevice::new(acpi_pm::AcpiPm::new(resources.alarm.clone())),
        DeviceKind::TestPorts => {
            CreatedDevice::new(kvm_testdev::TestBytes::ports(Box::new(resources.memory.clone())))
        }
        DeviceKind::TestLines => CreatedDevice::new(kvm_testdev::TestLines::new(lines)),
        DeviceKind::TestMemory => CreatedDevice::new(kvm_testdev::TestBytes::memory()),
        // These have positions in a list, not only a kind, so `installed` never gives one as such.
        DeviceKind::VirtioBlock | DeviceKind::VirtioConsole | DeviceKind::VirtioEntropy => {
            return Err(DeviceError::NotSupplied { name: device.name.to_owned() });
        }
    })
}

/// Returns the only interrupt line of a device.
fn first(lines: Vec<IrqLine>) -> IrqLine {
    lines.into_iter().next().unwrap_or_else(IrqLine::disconnected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::devices::device::tests::TestGuest;
    use crate::spec::{BlockSpec, PlatformSpec};

    pub(crate) fn guest() -> TestGuest {
        TestGuest::new()
    }

    /// A machine with one of each kind.
    fn everything() -> DeviceSpecs {
        let block = BlockSpec { image: "disk.img".into(), access: crate::spec::BlockAccess::ReadOnly };
        DeviceSpecs {
            // Its default ports overlap those of the configuration device.
            hypercall: Some(HypercallSpec { at: BusAddress::Port(Port(0x800)), host_addresses: false }),
            platform: PlatformSpec { kvm_testdev: true, ..PlatformSpec::pc() },
            virtio: vec![VirtioSpec::Block(block), VirtioSpec::Console { input: true }, VirtioSpec::Entropy],
            ..DeviceSpecs::default()
        }
    }

    #[test]
    fn every_kind_has_a_declaration_and_can_be_installed() {
        for kind in DeviceKind::ALL {
            let info = kind.info();
            assert!(info.length > 0 && !info.purpose.is_empty(), "{kind:?}");
            assert!(info.irqs.iter().all(|irq| *irq < 24), "{kind:?}: an IOAPIC has 24 inputs");
            if let BusAddress::Port(port) = info.location.address() {
                assert!(u64::from(port.0) + info.length <= 1 << 16, "{kind:?}");
            }
        }
        let specs = everything();
        let kinds: BTreeSet<DeviceKind> = installed(&specs)
            .iter()
            .map(|device| match device.source {
                DeviceSource::BuiltIn(kind) => kind,
                DeviceSource::Virtio(index) => DeviceKind::from_virtio(&specs.virtio[index]),
                DeviceSource::Custom(_) => unreachable!("the machine has none"),
            })
            .collect();
        let missing: Vec<_> = DeviceKind::ALL.iter().filter(|kind| !kinds.contains(kind)).collect();
        assert!(
            missing.is_empty(),
            "add to `everything` and to `DeviceKind::address` or `is_part_of`: {missing:?}"
        );
    }

    #[test]
    fn no_two_devices_overlap_and_interrupt_lines_are_apart() {
        let specs = everything();
        let mut ranges: Vec<(bool, u64, u64, &str)> = installed(&specs)
            .iter()
            .map(|device| match device.at {
                BusAddress::Port(port) => (false, port.0.into(), device.last(), device.name),
                BusAddress::Mmio(address) => (true, address.0, device.last(), device.name),
            })
            .collect();
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            assert!(pair[0].0 != pair[1].0 || pair[0].2 < pair[1].1, "{pair:x?}");
        }
        // The test device drives all inputs, on purpose.
        let irqs = |device: &InstalledDevice<'_>| match device.source {
            DeviceSource::BuiltIn(DeviceKind::TestLines) => Vec::new(),
            DeviceSource::BuiltIn(_) | DeviceSource::Virtio(_) | DeviceSource::Custom(_) => {
                device.irqs.to_vec()
            }
        };
        let mut lines: Vec<u32> = installed(&specs).iter().flat_map(irqs).collect();
        lines.sort_unstable();
        assert!(lines.windows(2).all(|pair| pair[0] < pair[1]), "{lines:?}");
    }

    #[test]
    fn a_plain_machine_has_the_movable_devices_only() {
        let specs = DeviceSpecs::default();
        for device in installed(&specs) {
            let DeviceSource::BuiltIn(kind) = device.source else { panic!("{device:?}") };
            assert_eq!(kind.info().location, DeviceLocation::Movable(device.at));
        }
        for kind in DeviceKind::ALL {
            let movable = matches!(kind.info().location, DeviceLocation::Movable(_));
            assert_eq!(kind.address(&specs).is_some(), movable, "{kind:?}");
        }
    }
}
