//! Registers of the interrupt controllers as devices on the buses of a machine.

use std::io;

use super::{Irqchip, SharedIrqchip};
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::irq::IrqSink;

/// Range of ports or addresses of the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegisterRange {
    /// Byte-wide registers of PICs and timer, from this port on.
    Ports {
        /// First port.
        first: u16,
        /// Number of ports.
        count: u16,
    },
    /// Registers of the IOAPIC.
    IoApic,
    /// Registers of the local APIC of the vCPU that accesses them. The state of all controllers is saved with this range.
    LocalApic,
}

impl RegisterRange {
    /// Ranges of ports: name, first port, number of ports.
    pub(crate) const PORTS: [(&'static str, u16, u16); 5] = [
        ("pic-master", 0x20, 2),
        ("pit", 0x40, 4),
        ("speaker", 0x61, 1),
        ("pic-slave", 0xa0, 2),
        ("elcr", 0x4d0, 2),
    ];
}

/// Input of the controllers, to which a device's line leads.
#[derive(Debug)]
pub(crate) struct IrqchipInput {
    irqchip: SharedIrqchip,
    input: u32,
}

impl IrqchipInput {
    /// Creates the end of a line to an input (a GSI).
    pub(crate) const fn new(irqchip: SharedIrqchip, input: u32) -> Self {
        Self { irqchip, input }
    }
}

impl IrqSink for IrqchipInput {
    fn pulse(&self) -> io::Result<()> {
        let mut irqchip = self.irqchip.lock();
        irqchip.set_line(self.input, true);
        irqchip.set_line(self.input, false);
        Ok(())
    }

    fn set(&self, level: bool) -> io::Result<()> {
        self.irqchip.lock().set_line(self.input, level);
        Ok(())
    }
}

/// Registers of a range, as a device.
#[derive(Debug)]
pub(crate) struct IrqchipRegisters {
    irqchip: SharedIrqchip,
    range: RegisterRange,
}

impl IrqchipRegisters {
    /// Creates the device for a range.
    pub(crate) const fn new(irqchip: SharedIrqchip, range: RegisterRange) -> Self {
        Self { irqchip, range }
    }
}

impl Device for IrqchipRegisters {
    fn length(&self) -> u64 {
        match self.range {
            RegisterRange::Ports { count, .. } => count.into(),
            RegisterRange::IoApic | RegisterRange::LocalApic => crate::PAGE_SIZE,
        }
    }

    fn read(&mut self, offset: u64, data: &mut [u8], guest: &dyn Guest) -> io::Result<Action> {
        let mut irqchip = self.irqchip.lock();
        match self.range {
            RegisterRange::Ports { first, count } => {
                for (port, byte) in ports(first, count, offset).zip(data) {
                    *byte = irqchip.read_port(port);
                }
            }
            RegisterRange::IoApic => copy(irqchip.read_ioapic(offset & !0xf), offset, data),
            RegisterRange::LocalApic => {
                let register = u16::try_from(offset & 0xff0).unwrap_or(0);
                copy(irqchip.read_apic(guest.vcpu(), register), offset, data);
            }
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], guest: &dyn Guest) -> io::Result<Action> {
        let mut irqchip = self.irqchip.lock();
        match self.range {
            RegisterRange::Ports { first, count } => {
                for (port, byte) in ports(first, count, offset).zip(data) {
                    irqchip.write_port(port, *byte);
                }
            }
            // Writes that are not of 32 bits at the start of a register have no effect (SDM vol. 3, 11.4.1).
            RegisterRange::IoApic => {
                if let Some(value) = register_value(offset, data) {
                    irqchip.write_ioapic(offset, value);
                }
            }
            RegisterRange::LocalApic => {
                if let (Some(value), Ok(register)) = (register_value(offset, data), u16::try_from(offset)) {
                    irqchip.write_apic(guest.vcpu(), register, value);
                }
            }
        }
        Ok(Action::Continue)
    }

    fn save(&self) -> Option<Vec<u8>> {
        match self.range {
            RegisterRange::LocalApic => to_bytes(&*self.irqchip.lock()),
            RegisterRange::Ports { .. } | RegisterRange::IoApic => Some(Vec::new()),
        }
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        if self.range != RegisterRange::LocalApic {
            return if state.is_empty() { Ok(()) } else { Err(StateMismatch) };
        }
        let saved: Irqchip = from_bytes(state)?;
        let mut irqchip = self.irqchip.lock();
        if !irqchip.has_shape_of(&saved) {
            return Err(StateMismatch);
        }
        *irqchip = saved;
        Ok(())
    }
}

/// Ports of an access that begins at `offset`, up to the end of the range.
fn ports(first: u16, count: u16, offset: u64) -> impl Iterator<Item = u16> {
    let offset = u16::try_from(offset).unwrap_or(count);
    (offset..count).map(move |offset| first.saturating_add(offset))
}

/// Copies the bytes of a 32-bit register that lies at a multiple of 16. Bytes beyond the register keep their value.
fn copy(register: u32, offset: u64, data: &mut [u8]) {
    let skipped = usize::try_from(offset % 16).unwrap_or(0);
    for (target, byte) in data.iter_mut().zip(register.to_le_bytes().into_iter().skip(skipped)) {
        *target = byte;
    }
}

/// Value of a write of 32 bits to the start of a register.
fn register_value(offset: u64, data: &[u8]) -> Option<u32> {
    let bytes = data.try_into().ok().filter(|_| offset.is_multiple_of(16))?;
    Some(u32::from_le_bytes(bytes))
}
