//! Puts the devices of a machine on its two buses and connects them to its interrupt lines.
//!
//! Devices are made by [`crate::devices`]; the KVM side is here: interrupt inputs, and addresses that stay free of memory.

use std::sync::{Arc, Mutex};

use kvm_sys_wrap::{Gpa, Vm};

use super::{InputSource, irq};
use crate::PAGE_SIZE;
use crate::devices::bus::Bus;
use crate::devices::console::Console;
use crate::devices::custom::CustomDevice;
use crate::devices::irq::IrqLine;
use crate::devices::irqchip::SharedIrqchip;
use crate::devices::irqchip::registers::{IrqchipInput, IrqchipRegisters, RegisterRange};
use crate::devices::rtc::AlarmHandle;
use crate::devices::{self, CreatedDevice, DeviceError, DeviceResources, InstalledDevice};
use crate::firmware;
use crate::layout::{IOAPIC, LOCAL_APIC};
use crate::machine::error::Error;
use crate::spec::gpa_range::GpaRange;
use crate::spec::virtio::MAX_DEVICES;
use crate::spec::{BusAddress, Interrupts, MachineSpec};

/// Buses with their devices, and the descriptors that the devices wait for.
#[derive(Default)]
pub(super) struct Buses {
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) input_sources: Vec<InputSource>,
}

impl Buses {
    /// Creates the devices of `spec` on a VM that has its memory and its interrupt controllers.
    pub(super) fn new(
        vm: &Vm,
        spec: &MachineSpec,
        irqchip: Option<&SharedIrqchip>,
        read_only: &[GpaRange],
        console: Console,
        custom: &[CustomDevice],
    ) -> Result<Self, Error> {
        let count = spec.devices.virtio.len();
        if count > MAX_DEVICES {
            return Err(Error::TooManyVirtioDevices { count });
        }
        let mut resources = DeviceResources {
            spec,
            memory: vm.memory(),
            read_only,
            output: console.output,
            input: Some((console.input, console.input_fd)),
            alarm: AlarmHandle::default(),
            memory_sizes: firmware::memory_sizes,
            custom,
        };
        let mut buses = Self::default();
        for device in devices::installed(&spec.devices) {
            let lines =
                device.irqs.iter().map(|input| line(vm, spec, irqchip, *input)).collect::<Result<_, _>>()?;
            let created = devices::create(&device, lines, &mut resources)?;
            buses.insert(vm, &device, created)?;
        }
        if let Some(irqchip) = irqchip {
            buses.insert_irqchip(vm, spec, irqchip)?;
        }
        Ok(buses)
    }

    /// Puts the registers of interrupt controllers in this process on the buses.
    fn insert_irqchip(&mut self, vm: &Vm, spec: &MachineSpec, irqchip: &SharedIrqchip) -> Result<(), Error> {
        let device = |range| Arc::new(Mutex::new(IrqchipRegisters::new(irqchip.clone(), range)));
        let mut insert_page = |name, address: Gpa, range| -> Result<(), Error> {
            self.mmio.insert(name, address.0, u64::MAX, device(range))?;
            Ok(vm.reserve_mmio(name, address..Gpa(address.0 + PAGE_SIZE))?)
        };
        insert_page("local-apic", LOCAL_APIC, RegisterRange::LocalApic)?;
        if spec.interrupts == Interrupts::Pc {
            insert_page("ioapic", IOAPIC, RegisterRange::IoApic)?;
            for (name, first, count) in RegisterRange::PORTS {
                let range = RegisterRange::Ports { first, count };
                // As with those in the kernel, port 0x61 lies among those of the keyboard controller.
                self.ports.insert_overlay(name, first.into(), device(range));
            }
        }
        Ok(())
    }

    /// Puts a device on its bus. MMIO addresses are kept free of memory.
    fn insert(
        &mut self,
        vm: &Vm,
        InstalledDevice { name, at, length, .. }: &InstalledDevice<'_>,
        CreatedDevice { device, input_fd }: CreatedDevice,
    ) -> Result<(), Error> {
        match at {
            BusAddress::Port(port) => {
                self.ports.insert(name, port.0.into(), u16::MAX.into(), Arc::clone(&device))?;
            }
            BusAddress::Mmio(start) => {
                self.mmio.insert(name, start.0, u64::MAX, Arc::clone(&device))?;
                let end = Gpa(start.0.saturating_add(*length));
                vm.reserve_mmio(name, *start..end)?;
            }
        }
        self.input_sources.extend(input_fd.map(|fd| InputSource { device, fd }));
        Ok(())
    }
}

impl From<DeviceError> for Error {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Clock(error) => Self::Clock(error),
            DeviceError::Disk(error) => Self::Disk(error),
            DeviceError::NotSupplied { name } => Self::DeviceNotSupplied { name },
        }
    }
}

/// Returns a line to an interrupt input (a GSI); disconnected on a machine without PIC and IOAPIC.
fn line(vm: &Vm, spec: &MachineSpec, irqchip: Option<&SharedIrqchip>, input: u32) -> Result<IrqLine, Error> {
    Ok(match (spec.interrupts, irqchip) {
        (Interrupts::None | Interrupts::Split, _) => IrqLine::disconnected(),
        (Interrupts::Pc, Some(irqchip)) => IrqLine::new(IrqchipInput::new(irqchip.clone(), input)),
        (Interrupts::Pc, None) => irq::line(vm, input)?,
    })
}

/// Returns the interrupt inputs that devices have a line to, with the device's title, in the order of the calls.
pub(crate) fn lines(spec: &MachineSpec) -> Vec<(u32, &str)> {
    if spec.kernel_irqchip() != Interrupts::Pc {
        return Vec::new();
    }
    let devices = devices::installed(&spec.devices);
    devices.iter().flat_map(|device| device.irqs.iter().map(|input| (*input, device.title))).collect()
}
