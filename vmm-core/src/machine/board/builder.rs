//! The devices of a machine, put on its two buses and connected to its interrupt lines.
//!
//! Each kind of device has a function of its own, here or with the devices; each gets an [`BoardBuilder`], which knows the
//! buses, the lines, and which addresses the VM has to keep free.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use kvm_sys_wrap::{Gpa, GuestMemory, Vm};

use super::InputSource;
use crate::devices::bus::{Bus, SharedDevice};
use crate::devices::console::{Console, NoInput};
use crate::devices::device::Device;
use crate::devices::irq::IrqLine;
use crate::devices::pc::CLOCK_INPUT;
use crate::devices::{self, DebugConsole, DebugExit, Hypercall, Serial};
use crate::machine::error::Error;
use crate::spec::gpa_range::GpaRange;
use crate::spec::virtio::interrupt;
use crate::spec::{DebugConsoleSpec, DeviceAddress, Interrupts, MachineSpec};

/// The interrupt input of the first serial port on a PC.
const SERIAL_INPUT: u32 = 4;

/// A machine that gets its devices.
pub(crate) struct BoardBuilder<'a> {
    vm: &'a Vm,
    pub(crate) spec: &'a MachineSpec,
    /// Memory that devices must not write.
    pub(crate) read_only: &'a [GpaRange],
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) receivers: Vec<InputSource>,
}

impl<'a> BoardBuilder<'a> {
    pub(super) fn new(vm: &'a Vm, spec: &'a MachineSpec, read_only: &'a [GpaRange]) -> Self {
        let (ports, mmio, receivers) = Default::default();
        Self { vm, spec, read_only, ports, mmio, receivers }
    }

    /// All of them.
    pub(super) fn all(&mut self, console: Console) -> Result<(), Error> {
        use devices::length;
        let Console { output, input, mut arrival } = console;
        let specs = &self.spec.devices;
        let mut input = Some(input);
        if let Some(device) = devices::virtio::attach(self, &output, &mut input)? {
            self.listen(&device, arrival.take());
        }
        if let Some(DebugConsoleSpec { at, .. }) = specs.debug_console {
            self.insert("debug-console", at, length::DEBUG_CONSOLE, DebugConsole::new(output.clone()))?;
        }
        if let Some(serial) = specs.serial {
            let line = self.line(SERIAL_INPUT)?;
            let input = input.filter(|_| serial.input).unwrap_or_else(|| Box::new(NoInput));
            let interrupts = line.is_connected();
            let device = Serial::new(output.clone(), input, line);
            let device = self.insert("serial", serial.at, length::SERIAL, device)?;
            self.listen(&device, arrival.filter(|_| interrupts && serial.input));
        }
        if let Some(exit) = &specs.debug_exit {
            let device = DebugExit::new(exit.success.clone());
            self.insert("debug-exit", exit.at, length::DEBUG_EXIT, device)?;
        }
        if let Some(at) = specs.hypercall {
            let device = Hypercall::new(output, &self.spec.arguments);
            self.insert("hypercall", at, length::HYPERCALL, device)?;
        }
        devices::pc::attach(self)?;
        Ok(())
    }

    /// Puts a device on its bus. MMIO addresses are kept free of memory.
    pub(crate) fn insert(
        &mut self,
        name: &'static str,
        at: DeviceAddress,
        length: u64,
        device: impl Device + 'static,
    ) -> Result<SharedDevice, Error> {
        let device: SharedDevice = Arc::new(Mutex::new(device));
        match at {
            DeviceAddress::Port(port) => {
                self.ports.insert(name, port.0.into(), u16::MAX.into(), Arc::clone(&device))?;
            }
            DeviceAddress::Mmio(start) => {
                self.mmio.insert(name, start.0, u64::MAX, Arc::clone(&device))?;
                let end = Gpa(start.0.saturating_add(length));
                self.vm.reserve_mmio(name, start..end)?;
            }
        }
        Ok(device)
    }

    /// Has a device told whenever `source` is readable while the machine runs, if there is such a thing.
    pub(crate) fn listen(&mut self, device: &SharedDevice, source: Option<OwnedFd>) {
        self.receivers.extend(source.map(|source| InputSource { device: Arc::clone(device), source }));
    }

    /// The line to an interrupt input (a GSI). On a machine without PIC and IOAPIC it leads nowhere.
    pub(crate) fn line(&self, input: u32) -> Result<IrqLine, Error> {
        Ok(match self.spec.interrupts {
            Interrupts::None | Interrupts::Split => IrqLine::disconnected(),
            Interrupts::Pc => IrqLine::to_input(self.vm, input)?,
        })
    }

    /// The guest's memory, for devices that read and write it by themselves.
    pub(crate) fn memory(&self) -> GuestMemory {
        self.vm.memory()
    }
}

/// The interrupt inputs that devices get a line to, with the device's name, in the order in which they are connected.
pub(crate) fn lines(spec: &MachineSpec) -> Vec<(u32, &'static str)> {
    if spec.interrupts != Interrupts::Pc {
        return Vec::new();
    }
    let devices = &spec.devices;
    let serial = devices.serial.iter().map(|_| (SERIAL_INPUT, "the serial port"));
    let clock = devices.platform.rtc.then_some((CLOCK_INPUT, "the clock"));
    let test = (0..24).filter(|_| devices.platform.kvm_testdev).map(|input| (input, "the test device"));
    let virtio = (0..devices.virtio.len()).filter_map(|index| Some((interrupt(index)?, "a virtio device")));
    virtio.chain(serial).chain(clock).chain(test).collect()
}
