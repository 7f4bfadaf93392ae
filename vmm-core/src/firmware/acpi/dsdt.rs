//! DSDT: devices that a kernel cannot discover, and the sleep states S3 and S5.

use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::{HEADER, OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::devices::{self, DeviceKind, DeviceSource, InstalledDevice, acpi_pm};
use crate::spec::{BusAddress, Interrupts, MachineSpec};

/// Returns the table. Revision 2 has 64-bit integers.
pub(super) fn dsdt(spec: &MachineSpec) -> Vec<u8> {
    let mut devices = Vec::new();
    for id in 0..spec.vcpus {
        devices.extend(processor(id));
    }
    for device in devices::installed(&spec.devices) {
        devices.extend(of_device(spec, &device).unwrap_or_default());
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

/// Returns a CPU. Its `_UID` is that of its local APIC in the MADT.
fn processor(id: u32) -> Vec<u8> {
    // Four characters: three hexadecimal digits name 4096 CPUs.
    let name = format!("C{:03X}", id & 0xfff);
    let hid = Name::new(Path::new("_HID"), &"ACPI0007");
    let uid = Name::new(Path::new("_UID"), &id);
    bytes(&Device::new(Path::new(&name), vec![&hid, &uid]))
}

/// Returns the description of a device of the machine; `None` for those that need none.
fn of_device(spec: &MachineSpec, device: &InstalledDevice<'_>) -> Option<Vec<u8>> {
    let irq = device.irqs.first().and_then(|input| line(spec, *input));
    let registers = registers(device)?;
    match device.source {
        DeviceSource::BuiltIn(DeviceKind::Serial) => matches!(device.at, BusAddress::Port(_))
            .then(|| self::device("COM1", &EISAName::new("PNP0501"), 1, registers, irq)),
        DeviceSource::BuiltIn(DeviceKind::Rtc) => {
            Some(self::device("RTC_", &EISAName::new("PNP0B00"), 0, registers, irq))
        }
        DeviceSource::BuiltIn(DeviceKind::FwCfg) => {
            Some(self::device("FWCF", &"QEMU0002", 0, registers, None))
        }
        DeviceSource::Virtio(index) => {
            let uid = u32::try_from(index).ok()?;
            let name = format!("VR{:02X}", uid & 0xff);
            Some(self::device(&name, &"LNRO0005", uid, registers, irq))
        }
        DeviceSource::BuiltIn(_) | DeviceSource::Custom(_) => None,
    }
}

/// Returns the ports or addresses of a device; `None` beyond what the descriptors can hold.
fn registers(device: &InstalledDevice<'_>) -> Option<Box<dyn Aml>> {
    Some(match device.at {
        BusAddress::Port(port) => Box::new(IO::new(port.0, port.0, 1, u8::try_from(device.length).ok()?)),
        BusAddress::Mmio(address) => {
            let (start, length) = (u32::try_from(address.0).ok()?, u32::try_from(device.length).ok()?);
            Box::new(Memory32Fixed::new(true, start, length))
        }
    })
}

/// Returns a device with one range of registers and, if it has one, an interrupt.
fn device(name: &str, hid: &dyn Aml, uid: u32, registers: Box<dyn Aml>, line: Option<Interrupt>) -> Vec<u8> {
    let hid = Name::new(Path::new("_HID"), hid);
    let uid = Name::new(Path::new("_UID"), &uid);
    let mut resources: Vec<&dyn Aml> = vec![registers.as_ref()];
    resources.extend(line.as_ref().map(|line| line as &dyn Aml));
    let resources = Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources));
    bytes(&Device::new(Path::new(name), vec![&hid, &uid, &resources]))
}

/// Returns an interrupt input, edge-triggered and active high; `None` on machines without an IOAPIC.
fn line(spec: &MachineSpec, input: u32) -> Option<Interrupt> {
    let (consumer, edge, low, shared) = (true, true, false, false);
    (spec.interrupts == Interrupts::Pc).then(|| Interrupt::new(consumer, edge, low, shared, input))
}
