//! The devices of a PC's board, put in their places.
//!
//! The places are those of every PC, of QEMU's power management, and of the test device; each is here once. The layout,
//! the checks of a configuration and `explain` read them from here.

use super::acpi_pm::{self, AcpiPm};
use super::crtc::Crtc;
use super::fw_cfg::FwCfg;
use super::i8042::I8042;
use super::kvm_testdev::{self, TestBytes, TestLines};
use super::length;
use super::null_ports::NullPorts;
use super::reset_ports::{ResetControl, SystemControl};
use super::rtc::{AlarmHandle, Rtc};
use crate::Port;
use crate::firmware;
use crate::machine::board::BoardBuilder;
use crate::machine::error::Error;
use crate::spec::{DeviceAddress, PlatformSpec};

/// The interrupt input of the clock on a PC.
pub(crate) const CLOCK_INPUT: u32 = 8;

/// A device of the board.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PcDevice {
    /// The real-time clock.
    Rtc,
    /// The keyboard controller.
    I8042,
    /// Power management.
    Power,
    /// The register that resets the machine.
    ResetControl,
    /// System control port A.
    SystemControl,
    /// The diagnostic port.
    Diagnostic,
    /// A port for short delays.
    Delay,
    /// The registers of a display that is not there.
    Crtc,
    /// The address port of a PCI bus that is not there.
    PciAddress,
    /// Its other ports.
    PciData,
    /// The configuration device.
    FwCfg,
    /// The test device: bytes at ports.
    TestPorts,
    /// The test device: interrupt inputs.
    TestLines,
    /// The test device: bytes in the address space.
    TestMemory,
}

/// The parts that a machine has, in the order of their addresses.
#[must_use]
pub fn parts(spec: &PlatformSpec) -> Vec<PcDevice> {
    let parts = [
        (PcDevice::I8042, spec.i8042),
        (PcDevice::Rtc, spec.rtc),
        (PcDevice::Diagnostic, spec.legacy_ports),
        (PcDevice::SystemControl, spec.legacy_ports),
        (PcDevice::TestPorts, spec.kvm_testdev),
        (PcDevice::Delay, spec.legacy_ports),
        (PcDevice::Crtc, spec.legacy_ports),
        (PcDevice::FwCfg, spec.fw_cfg.is_some()),
        (PcDevice::Power, spec.power),
        (PcDevice::PciAddress, spec.legacy_ports),
        (PcDevice::ResetControl, spec.power),
        (PcDevice::PciData, spec.legacy_ports),
        (PcDevice::TestLines, spec.kvm_testdev),
        (PcDevice::TestMemory, spec.kvm_testdev),
    ];
    parts.into_iter().filter(|(_, there)| *there).map(|(part, _)| part).collect()
}

impl PcDevice {
    /// The name on the bus, in tables and in messages: that of the configuration's table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rtc => "rtc",
            Self::I8042 => "i8042",
            Self::Power | Self::ResetControl => "power",
            Self::Crtc
            | Self::SystemControl
            | Self::Diagnostic
            | Self::Delay
            | Self::PciAddress
            | Self::PciData => "legacy-ports",
            Self::FwCfg => "fw-cfg",
            Self::TestPorts | Self::TestLines | Self::TestMemory => "kvm-testdev",
        }
    }

    /// Its first port or address.
    #[must_use]
    pub const fn at(self) -> DeviceAddress {
        DeviceAddress::Port(Port(match self {
            Self::Rtc => 0x70,
            Self::I8042 => 0x60,
            Self::Power => acpi_pm::PORT,
            Self::ResetControl => 0xcf9,
            Self::SystemControl => 0x92,
            Self::Diagnostic => 0x80,
            Self::Delay => 0xed,
            Self::Crtc => 0x3d4,
            Self::PciAddress => 0xcf8,
            Self::PciData => 0xcfa,
            Self::FwCfg => 0x510,
            Self::TestPorts => 0xe0,
            Self::TestLines => 0x2000,
            Self::TestMemory => return DeviceAddress::Mmio(kvm_testdev::MEMORY),
        }))
    }

    /// How many addresses it takes.
    #[must_use]
    pub const fn length(self) -> u64 {
        match self {
            Self::Rtc => length::RTC,
            Self::I8042 => length::I8042,
            Self::Power => length::POWER,
            Self::ResetControl => length::RESET_CONTROL,
            Self::SystemControl => length::SYSTEM_CONTROL,
            Self::Diagnostic | Self::Delay | Self::PciAddress => 1,
            // Up to 0xcff.
            Self::PciData => 6,
            Self::Crtc => length::CRTC,
            Self::FwCfg => length::FW_CFG,
            Self::TestPorts => length::KVM_TESTDEV_PORTS,
            Self::TestLines => length::KVM_TESTDEV_LINES,
            Self::TestMemory => length::KVM_TESTDEV_MEMORY,
        }
    }
}

impl PcDevice {
    /// What it does for the guest, in a few words.
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Rtc => "the time, an alarm, and how much memory there is",
            Self::I8042 => "a keyboard controller without keyboard; it can reset",
            Self::Power => "power-off, sleep, and a timer of 3.58 MHz",
            Self::ResetControl => "OUT of 6 resets",
            Self::Crtc => "keeps the cursor of a display that is not there",
            Self::SystemControl => "A20 is on; OUT with bit 0 set resets",
            Self::Diagnostic | Self::Delay => "takes writes that only cost time",
            Self::PciAddress | Self::PciData => "says that there is no PCI bus",
            Self::FwCfg => "QEMU's configuration device: memory size, CPUs, files",
            Self::TestPorts => "keeps four bytes; OUT of an address to 0xe4 makes the host forget its page",
            Self::TestLines => "OUT sets an interrupt input",
            Self::TestMemory => "keeps bytes",
        }
    }
}

/// Puts those that the machine has on its buses.
pub(crate) fn attach(board: &mut BoardBuilder<'_>) -> Result<(), Error> {
    let spec = &board.spec.devices.platform;
    let alarm = AlarmHandle::default();
    for part in parts(spec) {
        let (name, at, length) = (part.name(), part.at(), part.length());
        match part {
            PcDevice::Rtc => {
                let line = board.line(CLOCK_INPUT)?;
                let clock = Rtc::new(firmware::memory_sizes(board.spec), line, alarm.clone());
                let clock = clock.map_err(Error::Clock)?;
                let source = clock.descriptor().map_err(Error::Clock)?;
                let device = board.insert(name, at, length, clock)?;
                board.listen(&device, source);
                device
            }
            PcDevice::I8042 => board.insert(name, at, length, I8042::default())?,
            PcDevice::Power => board.insert(name, at, length, AcpiPm::new(alarm.clone()))?,
            PcDevice::Crtc => board.insert(name, at, length, Crtc::default())?,
            PcDevice::ResetControl => board.insert(name, at, length, ResetControl::default())?,
            PcDevice::SystemControl => board.insert(name, at, length, SystemControl::default())?,
            PcDevice::Diagnostic | PcDevice::Delay | PcDevice::PciAddress | PcDevice::PciData => {
                board.insert(name, at, length, NullPorts::new(length))?
            }
            PcDevice::FwCfg => {
                let files = spec.fw_cfg.as_ref().map_or(&[][..], |spec| &spec.files);
                let memory =
                    board.spec.memory.iter().fold(0u64, |sum, region| sum.saturating_add(region.size));
                let cpus = u16::try_from(board.spec.vcpus).unwrap_or(u16::MAX);
                board.insert(name, at, length, FwCfg::new(memory, cpus, files))?
            }
            PcDevice::TestPorts => board.insert(name, at, length, TestBytes::ports())?,
            PcDevice::TestMemory => board.insert(name, at, length, TestBytes::memory())?,
            PcDevice::TestLines => {
                let lines: Result<Vec<_>, Error> = (0..).take(24).map(|input| board.line(input)).collect();
                board.insert(name, at, length, TestLines::new(lines?))?
            }
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_parts_overlap_and_they_are_in_order() {
        let all = parts(&PlatformSpec { kvm_testdev: true, ..PlatformSpec::pc() });
        assert_eq!(all.len(), 14);
        let ports: Vec<(u64, u64)> = all
            .iter()
            .filter_map(|part| match part.at() {
                DeviceAddress::Port(port) => Some((port.0.into(), u64::from(port.0) + part.length())),
                DeviceAddress::Mmio(_) => None,
            })
            .collect();
        assert!(ports.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ports:x?}");
        assert_eq!(parts(&PlatformSpec::default()), []);
    }
}
