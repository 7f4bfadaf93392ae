//! Local APICs and IOAPIC of this crate, connected as on a machine.

use super::kernel_chips::KernelChips;
use super::{APIC, IOAPIC};
use crate::devices::irqchip::ioapic::IoApic;
use crate::devices::irqchip::local_apic::addressing::lowest_priority;
use crate::devices::irqchip::local_apic::{ApicEffect, ApicMode, LocalApic, Pending};
use crate::devices::irqchip::message::{DeliveryMode, InterruptMessage};

pub(super) struct OwnChips {
    pub(super) apics: Vec<LocalApic>,
    ioapic: IoApic,
    /// Interrupts end when they are taken ([`KernelChips::ends_interrupts_at_once`]).
    pub(super) ends_at_once: bool,
}

impl OwnChips {
    pub(super) fn new(cpus: usize) -> Self {
        let apics = (0..cpus).map(|id| LocalApic::new(u32::try_from(id).unwrap())).collect();
        Self { apics, ioapic: IoApic::new(), ends_at_once: KernelChips::ends_interrupts_at_once() }
    }

    pub(super) fn read(&mut self, cpu: usize, address: u32, now: u64) -> u32 {
        match address.checked_sub(APIC) {
            Some(offset) => self.apics[cpu].read(u16::try_from(offset).unwrap(), now),
            None => self.ioapic.read((address - IOAPIC).into()),
        }
    }

    pub(super) fn write(&mut self, cpu: usize, address: u32, value: u32, now: u64) {
        match address.checked_sub(APIC) {
            Some(offset) => {
                let effect = self.apics[cpu].write(u16::try_from(offset).unwrap(), value, now);
                self.apply(cpu, effect);
            }
            None => {
                self.ioapic.write((address - IOAPIC).into(), value);
                self.deliver_inputs();
            }
        }
    }

    pub(super) fn take(&mut self, cpu: usize, now: u64) -> Option<u8> {
        let apic = &mut self.apics[cpu];
        apic.advance(now);
        match apic.pending()? {
            Pending::Vector(vector) => {
                assert_eq!(apic.acknowledge(), vector);
                if self.ends_at_once {
                    let effect = apic.end_of_interrupt();
                    self.apply(cpu, effect);
                }
                Some(vector)
            }
            Pending::ExtInt => panic!("there are no PICs"),
        }
    }

    pub(super) fn set_line(&mut self, input: u8, level: bool, _: u64) {
        self.ioapic.set_input(input, level);
        self.deliver_inputs();
    }

    pub(super) fn read_msr(&mut self, msr: u32, now: u64) -> Option<u64> {
        self.apics[0].read_msr(msr, now).ok()
    }

    pub(super) fn write_msr(&mut self, msr: u32, value: u64, now: u64) -> Option<()> {
        let effect = self.apics[0].write_msr(msr, value, now).ok()?;
        self.apply(0, effect);
        Some(())
    }

    pub(super) fn set_x2apic(&mut self) {
        self.apics.iter_mut().for_each(|apic| apic.set_mode(ApicMode::X2Apic));
    }

    fn apply(&mut self, sender: usize, effect: ApicEffect) {
        match effect {
            ApicEffect::None | ApicEffect::Eoi { level: false, .. } => {}
            ApicEffect::Ipi(icr) => {
                self.deliver(icr.message, |number, apic| apic.is_target(&icr, number == sender));
            }
            ApicEffect::Eoi { vector, level: true } => {
                self.ioapic.eoi(vector);
                self.deliver_inputs();
            }
        }
    }

    fn deliver_inputs(&mut self) {
        let messages = self.ioapic.take_messages();
        for sent in messages {
            if !self.deliver(sent.message, |_, apic| apic.is_addressed(sent.message.destination)) {
                self.ioapic.reject(sent.input);
            }
        }
    }

    /// Delivers a message, and returns true if an APIC accepted it.
    fn deliver(&mut self, message: InterruptMessage, is_target: impl Fn(usize, &LocalApic) -> bool) -> bool {
        let targets = self.apics.iter().enumerate();
        let mut targets: Vec<_> = targets
            .filter(|(number, apic)| is_target(*number, apic) && apic.accepts(&message))
            .map(|(number, apic)| (number, apic.arbitration_priority()))
            .collect();
        if message.mode == DeliveryMode::LowestPriority {
            let lowest = lowest_priority(&targets, message.vector);
            targets.retain(|(number, _)| Some(*number) == lowest);
        }
        for (number, _) in &targets {
            assert_eq!(self.apics[*number].deliver(message), None);
        }
        !targets.is_empty()
    }
}
