//! DSDT: the devices that a kernel cannot find by itself, and what switches the machine off or suspends it.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{HEADER, OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::devices::{acpi_pm, length, pc};
use crate::spec::{DeviceAddress, Interrupts, MachineSpec, virtio};

/// The table. Its revision is that of integers with 64 bits.
pub(super) fn dsdt(spec: &MachineSpec) -> Vec<u8> {
    let mut devices = Vec::new();
    for id in 0..spec.vcpus {
        devices.extend(processor(id));
    }
    devices.extend(serial(spec).unwrap_or_default());
    if spec.devices.platform.rtc {
        let line = line(spec, 8);
        devices.extend(device("RTC_", &EISAName::new("PNP0B00"), 0, ports(pc::PcDevice::Rtc), line));
    }
    if spec.devices.platform.fw_cfg.is_some() {
        devices.extend(device("FWCF", &"QEMU0002", 0, ports(pc::PcDevice::FwCfg), None));
    }
    for index in 0..spec.devices.virtio.len() {
        devices.extend(virtio_device(spec, index).unwrap_or_default());
    }

    let mut dsdt = Sdt::new(*b"DSDT", HEADER, 2, OEM, OEM_TABLE, OEM_REVISION);
    if spec.devices.platform.power {
        for (name, state) in [("_S3_", acpi_pm::S3), ("_S5_", acpi_pm::S5)] {
            let package = Package::new(vec![&state, &state, &0u8, &0u8]);
            dsdt.append_slice(&bytes(&Name::new(Path::new(name), &package)));
        }
    }
    dsdt.append_slice(&Scope::raw(Path::new("_SB_"), devices));
    dsdt.as_slice().to_vec()
}

/// A CPU. Its `_UID` is the one that the MADT has for its local APIC.
fn processor(id: u32) -> Vec<u8> {
    // Four characters: three hexadecimal digits name 4096 CPUs.
    let name = format!("C{:03X}", id & 0xfff);
    let hid = Name::new(Path::new("_HID"), &"ACPI0007");
    let uid = Name::new(Path::new("_UID"), &id);
    bytes(&Device::new(Path::new(&name), vec![&hid, &uid]))
}

/// The serial port, where it is at a port.
fn serial(spec: &MachineSpec) -> Option<Vec<u8>> {
    let DeviceAddress::Port(port) = spec.devices.serial?.at else { return None };
    let registers: Box<dyn Aml> = Box::new(IO::new(port.0, port.0, 1, small(length::SERIAL)));
    Some(device("COM1", &EISAName::new("PNP0501"), 1, registers, line(spec, 4)))
}

/// A virtio device: its window and its interrupt follow from its place in the list.
fn virtio_device(spec: &MachineSpec, index: usize) -> Option<Vec<u8>> {
    let (window, input) = (virtio::window(index)?, virtio::interrupt(index)?);
    let start = u32::try_from(window.start().0).ok()?;
    let size = u32::try_from(window.size()).ok()?;
    let uid = u32::try_from(index).ok()?;
    let name = format!("VR{:02X}", uid & 0xff);
    let registers: Box<dyn Aml> = Box::new(Memory32Fixed::new(true, start, size));
    Some(device(&name, &"LNRO0005", uid, registers, line(spec, input)))
}

/// A device with one range of registers, and an interrupt if it has one.
fn device(name: &str, hid: &dyn Aml, uid: u32, registers: Box<dyn Aml>, line: Option<Interrupt>) -> Vec<u8> {
    let hid = Name::new(Path::new("_HID"), hid);
    let uid = Name::new(Path::new("_UID"), &uid);
    let mut resources: Vec<&dyn Aml> = vec![registers.as_ref()];
    resources.extend(line.as_ref().map(|line| line as &dyn Aml));
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    bytes(&Device::new(Path::new(name), vec![&hid, &uid, &resources]))
}

/// The ports of a device of the board.
fn ports(part: pc::PcDevice) -> Box<dyn Aml> {
    let first = match part.at() {
        DeviceAddress::Port(port) => port.0,
        DeviceAddress::Mmio(_) => 0,
    };
    Box::new(IO::new(first, first, 1, small(part.length())))
}

/// An interrupt input, edge-triggered, active high, on machines that have them.
fn line(spec: &MachineSpec, input: u32) -> Option<Interrupt> {
    let (consumer, edge, low, shared) = (true, true, false, false);
    (spec.interrupts == Interrupts::Pc).then(|| Interrupt::new(consumer, edge, low, shared, input))
}

/// The lengths of devices at ports are all below 256.
fn small(length: u64) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}
