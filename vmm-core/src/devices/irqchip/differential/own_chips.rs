//! Local APICs and IOAPIC of this crate, connected as on a machine.

use super::kernel_chips::KernelChips;
use super::{APIC, EOI, IOAPIC};
use crate::devices::irqchip::Irqchip;

/// IA32_APIC_BASE: enabled, in x2APIC mode.
const X2APIC_ENABLED: u64 = 0b11 << 10;

pub(super) struct OwnChips {
    irqchip: Irqchip,
    cpus: usize,
    /// Interrupts end when they are taken ([`KernelChips::ends_interrupts_at_once`]).
    pub(super) ends_at_once: bool,
}

impl OwnChips {
    pub(super) fn new(cpus: usize) -> Self {
        let irqchip = Irqchip::new(u32::try_from(cpus).unwrap(), true);
        Self { irqchip, cpus, ends_at_once: KernelChips::ends_interrupts_at_once() }
    }

    pub(super) fn advance(&mut self, now: u64) {
        self.irqchip.advance(now);
    }

    pub(super) fn read(&mut self, cpu: usize, address: u32, now: u64) -> u32 {
        self.advance(now);
        match address.checked_sub(APIC) {
            Some(offset) => self.irqchip.read_apic(cpu, u16::try_from(offset).unwrap()),
            None => self.irqchip.read_ioapic((address - IOAPIC).into()),
        }
    }

    pub(super) fn write(&mut self, cpu: usize, address: u32, value: u32, now: u64) {
        self.advance(now);
        match address.checked_sub(APIC) {
            Some(offset) => self.irqchip.write_apic(cpu, u16::try_from(offset).unwrap(), value),
            None => self.irqchip.write_ioapic((address - IOAPIC).into(), value),
        }
    }

    pub(super) fn take(&mut self, cpu: usize, now: u64) -> Option<u8> {
        self.advance(now);
        let vector = self.irqchip.acknowledge(cpu)?.vector;
        assert_eq!(self.irqchip.in_service(cpu), Some(vector));
        if self.ends_at_once {
            self.write(cpu, APIC + EOI, 0, now);
        }
        Some(vector)
    }

    pub(super) fn set_line(&mut self, input: u8, level: bool, now: u64) {
        self.advance(now);
        self.irqchip.set_line(input.into(), level);
    }

    pub(super) fn read_msr(&mut self, msr: u32, now: u64) -> Option<u64> {
        self.advance(now);
        self.irqchip.read_apic_msr(0, msr)
    }

    pub(super) fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Option<()> {
        self.advance(now);
        self.irqchip.write_apic_msr(0, msr, value)
    }

    pub(super) fn set_x2apic(&mut self) {
        for cpu in 0..self.cpus {
            self.irqchip.set_registers(cpu, 0, X2APIC_ENABLED);
        }
    }
}
