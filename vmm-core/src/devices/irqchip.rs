//! Interrupt controllers and timers of a PC, in this process: 8259As, 8254, IOAPIC and a local APIC for each vCPU.
//!
//! Everything here is a state machine without a clock: time comes with [`Irqchip::advance`]. So what the controllers do follows from
//! the accesses of the guest, the lines of the devices and those times, and can be repeated. KVM's controllers in the kernel are the
//! other implementation of the same hardware; tests compare the two (`differential`).
//!
//! | file | part |
//! |---|---|
//! | `i8259.rs` | the two PICs |
//! | `i8254.rs` | the timer, and port 0x61 |
//! | `ioapic.rs` | the IOAPIC |
//! | `local_apic.rs` | a local APIC |
//! | `message.rs` | messages between APICs |
//! | `processor.rs` | a processor: its local APIC, and the states that interrupts change |
//! | `registers.rs` | the devices on the buses |
//! | `status.rs` | interrupts of a vCPU, for reports |
//!
//! Inputs (GSIs) are those of KVM: 0 to 15 lead to the PICs and to the IOAPIC, 16 to 23 to the IOAPIC alone; the timer is input 0.

pub(crate) mod i8254;
pub(crate) mod i8259;
pub(crate) mod ioapic;
pub(crate) mod local_apic;
pub(crate) mod message;
pub(crate) mod processor;
pub(crate) mod registers;
pub(crate) mod status;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use i8254::Pit;
use i8259::{PicPair, PicRegisters};
use ioapic::{INPUTS, IoApic};
use local_apic::addressing::lowest_priority;
use local_apic::{ApicEffect, ApicMode, LocalApic, Pending};
use message::{DeliveryMode, InterruptMessage};
use processor::IrqchipProcessor;

/// Interrupt input of the timer.
const PIT_INPUT: u8 = 0;
/// Number of interrupt inputs of the PICs.
const PIC_INPUTS: u8 = 16;

/// IA32_APIC_BASE: the local APIC is enabled (SDM vol. 3, 11.4.4).
const APIC_BASE_ENABLE: u64 = 1 << 11;
/// IA32_APIC_BASE: x2APIC mode (11.12.1).
const APIC_BASE_X2APIC: u64 = 1 << 10;

/// Interrupt controllers and timers of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Irqchip {
    /// PICs, timer and IOAPIC; `None` on a machine with local APICs alone.
    pc: Option<PcControllers>,
    processors: Vec<IrqchipProcessor>,
    /// Time of the last [`Irqchip::advance`] in nanoseconds.
    now: u64,
}

/// Controllers that a machine has once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct PcControllers {
    pics: PicPair,
    pit: Pit,
    ioapic: IoApic,
}

/// Origin of an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterruptSource {
    /// Timer of the local APIC.
    ApicTimer,
    /// 8254 timer.
    Pit,
    /// Device on this interrupt input (GSI).
    Line(u32),
    /// Message of a vCPU, whose number this is (inter-processor interrupt).
    Ipi(u32),
}

/// Interrupt that a vCPU takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupt {
    /// Vector of the interrupt.
    pub(crate) vector: u8,
    /// Origin of the interrupt; `None` if the controllers do not tell.
    pub(crate) source: Option<InterruptSource>,
}

/// Interrupt controllers that the devices, the buses and the run loop of a machine share.
#[derive(Debug, Clone)]
pub(crate) struct SharedIrqchip(Arc<Mutex<Irqchip>>);

impl SharedIrqchip {
    pub(crate) fn new(irqchip: Irqchip) -> Self {
        Self(Arc::new(Mutex::new(irqchip)))
    }

    /// Locks the controllers. All users are on the thread that runs the machine, so none waits.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Irqchip> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Irqchip {
    /// Creates the controllers of a machine with `vcpus` vCPUs in the state in which a BIOS leaves them; local APICs alone if `has_pc`
    /// is false.
    pub(crate) fn new(vcpus: u32, has_pc: bool) -> Self {
        let mut processors: Vec<_> = (0..vcpus).map(IrqchipProcessor::new).collect();
        let pc =
            has_pc.then(|| PcControllers { pics: PicPair::new(), pit: Pit::new(), ioapic: IoApic::new() });
        if let Some(bsp) = processors.first_mut().filter(|_| has_pc) {
            bsp.apic.set_virtual_wire();
        }
        let mut irqchip = Self { pc, processors, now: 0 };
        // The timer's output is high: initializing the PICs later is no edge.
        irqchip.set_line(PIT_INPUT.into(), true);
        irqchip
    }

    /// Sets the level of an interrupt input. Numbers without an input are ignored.
    pub(crate) fn set_line(&mut self, input: u32, level: bool) {
        let Ok(input) = u8::try_from(input) else { return };
        let Some(pc) = &mut self.pc else { return };
        if input < PIC_INPUTS {
            pc.pics.set_input(input, level);
        }
        pc.ioapic.set_input(input, level);
        self.update();
    }

    /// Moves the time on to `now`, in nanoseconds, and lets the timers interrupt. A time before the last one is taken for that one.
    pub(crate) fn advance(&mut self, now: u64) {
        let before = self.now;
        self.now = now.max(before);
        for processor in &mut self.processors {
            processor.apic.advance(self.now);
        }
        let Some(PcControllers { pit, .. }) = &self.pc else { return };
        let (edges, outputs) = (pit.edges(before, self.now), [pit.output(before), pit.output(self.now)]);
        if edges > 0 {
            // However many edges there were, the controllers remember one.
            self.set_line(PIT_INPUT.into(), false);
            self.set_line(PIT_INPUT.into(), true);
        }
        self.follow_pit([outputs[0] || edges > 0, outputs[1]]);
    }

    /// Passes on a change of the timer's output.
    fn follow_pit(&mut self, [before, after]: [bool; 2]) {
        if before != after {
            self.set_line(PIT_INPUT.into(), after);
        }
    }

    /// Returns true if `other` can be a later state of these controllers: they are of the same kind and number.
    fn has_shape_of(&self, other: &Self) -> bool {
        self.pc.is_some() == other.pc.is_some() && self.processors.len() == other.processors.len()
    }

    /// Returns the time of the last [`Irqchip::advance`] in nanoseconds.
    pub(crate) const fn now(&self) -> u64 {
        self.now
    }

    /// Returns the next time at which a timer has an effect; `None` if no timer is armed.
    pub(crate) fn next_event(&self) -> Option<u64> {
        let pit = self.pc.as_ref().filter(|_| self.is_unmasked(PIT_INPUT));
        let pit = pit.and_then(|pc| pc.pit.next_output_change(self.now));
        self.processors.iter().filter_map(|processor| processor.apic.next_event()).chain(pit).min()
    }

    /// Returns true if some interrupt input besides the timer's is unmasked.
    pub(crate) fn has_unmasked_input(&self) -> bool {
        (0..INPUTS).any(|input| input != PIT_INPUT && self.is_unmasked(input))
    }

    fn is_unmasked(&self, input: u8) -> bool {
        let Some(pc) = &self.pc else { return false };
        let [master, slave] = pc.pics.registers();
        let is_open = |mask: u8, irq: u8| mask.checked_shr(irq.into()).is_some_and(|bit| bit & 1 == 0);
        let by_pic = match input {
            // The slave's.
            2 => false,
            0..=7 => master.vector_base.is_some() && is_open(master.imr, input),
            8..=15 => slave.vector_base.is_some() && is_open(master.imr, 2) && is_open(slave.imr, input - 8),
            _ => false,
        };
        let entry = pc.ioapic.entries().get(usize::from(input));
        by_pic || entry.is_some_and(|entry| !entry.is_masked())
    }

    /// Returns the interrupt that a vCPU takes next.
    pub(crate) fn pending(&self, vcpu: usize) -> Option<Pending> {
        self.processors.get(vcpu)?.apic.pending()
    }

    /// Returns the highest interrupt that a vCPU has in service, in its local APIC or in the PICs.
    pub(crate) fn in_service(&self, vcpu: usize) -> Option<u8> {
        let by_pic = || {
            let registers = self.pc.as_ref().filter(|_| vcpu == 0)?.pics.registers();
            let in_service = |chip: &PicRegisters| Some(chip.vector_base? + lowest_input(chip.isr)?);
            // Input 2 of the master is the slave's.
            registers.iter().rev().find_map(in_service)
        };
        self.processors.get(vcpu)?.apic.in_service().or_else(by_pic)
    }

    /// Returns the highest interrupt that waits in the local APIC of a vCPU.
    pub(crate) fn requested(&self, vcpu: usize) -> Option<u8> {
        self.processors.get(vcpu)?.apic.waiting().map(|waiting| waiting.vector)
    }

    /// Returns the source that is programmed to send a vector to a vCPU, or that sent it last as a message; `None` if there is none, or
    /// more than one.
    pub(crate) fn source_of(&self, vcpu: usize, vector: u8) -> Option<InterruptSource> {
        let timer = self.processors.get(vcpu)?.apic.timer_view(self.now).entry;
        let mut sources: Vec<InterruptSource> = (!timer.masked && timer.vector == vector)
            .then_some(InterruptSource::ApicTimer)
            .into_iter()
            .collect();
        sources.extend(
            self.processors.get(vcpu)?.ipi_senders.get(&vector).map(|sender| InterruptSource::Ipi(*sender)),
        );
        if let Some(pc) = &self.pc {
            let entries = (0..).zip(pc.ioapic.entries());
            sources.extend(
                entries
                    .filter(|(_, entry)| !entry.is_masked() && entry.vector() == vector)
                    .map(|(input, _)| line_source(input)),
            );
        }
        if let [source] = *sources.as_slice() { Some(source) } else { None }
    }

    /// Returns the source of the PICs' input whose interrupt they give this vector.
    pub(crate) fn pic_source(&self, vector: u8) -> Option<InterruptSource> {
        let registers = self.pc.as_ref()?.pics.registers();
        (0..).step_by(8).zip(registers).find_map(|(first, registers)| {
            let input = vector.checked_sub(registers.vector_base?).filter(|input| *input < 8)?;
            Some(line_source(first + u32::from(input)))
        })
    }

    /// Returns the interrupt that [`Irqchip::acknowledge`] would take.
    pub(crate) fn next_interrupt(&self, vcpu: usize) -> Option<Interrupt> {
        Some(match self.pending(vcpu)? {
            Pending::Vector(vector) => Interrupt { vector, source: self.source_of(vcpu, vector) },
            Pending::ExtInt => {
                let vector = self.pc.as_ref()?.pics.clone().acknowledge();
                Interrupt { vector, source: self.pic_source(vector) }
            }
        })
    }

    /// Takes the interrupt that a vCPU gets next, and returns its vector.
    pub(crate) fn acknowledge(&mut self, vcpu: usize) -> Option<Interrupt> {
        let interrupt = self.next_interrupt(vcpu)?;
        match self.pending(vcpu)? {
            Pending::Vector(_) => self.processors.get_mut(vcpu)?.apic.acknowledge(),
            Pending::ExtInt => self.pc.as_mut()?.pics.acknowledge(),
        };
        self.update();
        Some(interrupt)
    }

    /// Takes the non-maskable interrupt that waits for a vCPU.
    pub(crate) fn acknowledge_nmi(&mut self, vcpu: usize) {
        if let Some(processor) = self.processors.get_mut(vcpu) {
            processor.acknowledge_nmi();
        }
    }

    /// Resets all controllers, as after power-on. The time goes on.
    pub(crate) fn reset(&mut self) {
        let vcpus = u32::try_from(self.processors.len()).unwrap_or(u32::MAX);
        *self = Self { now: self.now, ..Self::new(vcpus, self.pc.is_some()) };
    }

    /// Returns CR8 of a vCPU: bits 4 to 7 of its task priority.
    pub(crate) fn cr8(&self, vcpu: usize) -> u8 {
        self.processors.get(vcpu).map_or(0, |processor| processor.apic.cr8())
    }

    /// Takes over the registers of a vCPU that it can change without an exit to this process: CR8 and IA32_APIC_BASE.
    pub(crate) fn set_registers(&mut self, vcpu: usize, cr8: u8, apic_base: u64) {
        let Some(IrqchipProcessor { apic, .. }) = self.processors.get_mut(vcpu) else { return };
        if apic.cr8() != cr8 {
            apic.set_cr8(cr8);
        }
        apic.set_mode(match apic_base & (APIC_BASE_ENABLE | APIC_BASE_X2APIC) {
            0 | APIC_BASE_X2APIC => ApicMode::Disabled,
            APIC_BASE_ENABLE => ApicMode::XApic,
            _ => ApicMode::X2Apic,
        });
    }

    /// Returns the number of vCPUs.
    pub(crate) const fn vcpus(&self) -> usize {
        self.processors.len()
    }

    /// Returns a vCPU as the controllers see it.
    pub(crate) fn processor(&self, vcpu: usize) -> Option<&IrqchipProcessor> {
        self.processors.get(vcpu)
    }

    /// Returns a vCPU as the controllers see it, to change.
    pub(crate) fn processor_mut(&mut self, vcpu: usize) -> Option<&mut IrqchipProcessor> {
        self.processors.get_mut(vcpu)
    }

    /// Returns true if a vCPU has instructions to execute: it is not halted, or something wakes it.
    pub(crate) fn is_runnable(&self, vcpu: usize) -> bool {
        self.processors.get(vcpu).is_some_and(IrqchipProcessor::is_runnable)
    }

    /// Reads a register of a vCPU's local APIC, in xAPIC mode.
    pub(crate) fn read_apic(&mut self, vcpu: usize, offset: u16) -> u32 {
        self.processors.get_mut(vcpu).map_or(u32::MAX, |processor| processor.apic.read(offset, self.now))
    }

    /// Writes a register of a vCPU's local APIC, in xAPIC mode.
    pub(crate) fn write_apic(&mut self, vcpu: usize, offset: u16, value: u32) {
        let Some(IrqchipProcessor { apic, .. }) = self.processors.get_mut(vcpu) else { return };
        let effect = apic.write(offset, value, self.now);
        self.apply(vcpu, effect);
    }

    /// Reads a register of a vCPU's local APIC in x2APIC mode; `None` for an access that raises #GP.
    pub(crate) fn read_apic_msr(&mut self, vcpu: usize, msr: u32) -> Option<u64> {
        self.processors.get_mut(vcpu)?.apic.read_msr(msr, self.now).ok()
    }

    /// Writes a register of a vCPU's local APIC in x2APIC mode; `None` for an access that raises #GP.
    pub(crate) fn write_apic_msr(&mut self, vcpu: usize, msr: u32, value: u64) -> Option<()> {
        let effect = self.processors.get_mut(vcpu)?.apic.write_msr(msr, value, self.now).ok()?;
        self.apply(vcpu, effect);
        Some(())
    }

    /// Reads a register of the IOAPIC.
    pub(crate) fn read_ioapic(&self, offset: u64) -> u32 {
        self.pc.as_ref().map_or(u32::MAX, |pc| pc.ioapic.read(offset))
    }

    /// Writes a register of the IOAPIC.
    pub(crate) fn write_ioapic(&mut self, offset: u64, value: u32) {
        let Some(pc) = &mut self.pc else { return };
        pc.ioapic.write(offset, value);
        self.update();
    }

    /// Reads a port of the PICs or of the timer.
    pub(crate) fn read_port(&mut self, port: u16) -> u8 {
        let Some(pc) = &mut self.pc else { return u8::MAX };
        let value = if is_pit_port(port) { pc.pit.read(port, self.now) } else { pc.pics.read(port) };
        self.update();
        value
    }

    /// Writes a port of the PICs or of the timer.
    pub(crate) fn write_port(&mut self, port: u16, value: u8) {
        let Some(pc) = &mut self.pc else { return };
        if is_pit_port(port) {
            let before = pc.pit.output(self.now);
            pc.pit.write(port, value, self.now);
            let after = pc.pit.output(self.now);
            self.follow_pit([before, after]);
        } else {
            pc.pics.write(port, value);
            self.update();
        }
    }

    /// Initializes the PICs as a BIOS does, with vectors from `master` and `slave` on and all inputs unmasked.
    pub(crate) fn init_pics(&mut self, master: u8, slave: u8) {
        // ICW1 to ICW4 of each, and the mask.
        for (command, vectors, cascade) in [(0x20, master, 0x04), (0xa0, slave, 0x02)] {
            self.write_port(command, 0x11);
            for value in [vectors, cascade, 0x01, 0x00] {
                self.write_port(command + 1, value);
            }
        }
    }

    /// Carries out the effect of a register write of one local APIC on the other controllers.
    fn apply(&mut self, sender: usize, effect: ApicEffect) {
        match effect {
            ApicEffect::None | ApicEffect::Eoi { level: false, .. } => {}
            ApicEffect::Ipi(icr) => {
                let from = u32::try_from(sender).ok();
                let is_delivered =
                    self.deliver(icr.message, from, |number, apic| apic.is_target(&icr, number == sender));
                let lost = (icr.message.vector, icr.message.destination.id);
                if let Some(sender) = self.processors.get_mut(sender) {
                    let is_interrupt = icr.message.mode.is_queued() || icr.message.mode == DeliveryMode::Nmi;
                    sender.lost_ipi =
                        Some(lost).filter(|_| is_interrupt && !is_delivered).or(sender.lost_ipi);
                }
            }
            ApicEffect::SelfIpi { vector } => {
                if let (Some(processor), Ok(number)) =
                    (self.processors.get_mut(sender), u32::try_from(sender))
                {
                    processor.ipi_senders.insert(vector, number);
                }
            }
            ApicEffect::Eoi { vector, level: true } => {
                if let Some(pc) = &mut self.pc {
                    pc.ioapic.eoi(vector);
                }
            }
        }
        self.update();
    }

    /// Passes on what the PICs and the IOAPIC have for the local APICs.
    fn update(&mut self) {
        let Some(pc) = &mut self.pc else { return };
        let (intr, messages) = (pc.pics.intr(), pc.ioapic.take_messages());
        for processor in &mut self.processors {
            processor.set_lint0(intr);
        }
        for sent in messages {
            let destination = sent.message.destination;
            let is_delivered = self.deliver(sent.message, None, |_, apic| apic.is_addressed(destination));
            if let Some(pc) = self.pc.as_mut().filter(|_| !is_delivered) {
                pc.ioapic.reject(sent.input);
            }
        }
    }

    /// Delivers a message to the local APICs that it is for, and returns true if one accepted it. `sender` is the vCPU that sent it.
    fn deliver(
        &mut self,
        message: InterruptMessage,
        sender: Option<u32>,
        is_target: impl Fn(usize, &LocalApic) -> bool,
    ) -> bool {
        let processors = self.processors.iter().enumerate();
        let mut targets: Vec<_> = processors
            .filter(|(number, IrqchipProcessor { apic, .. })| {
                is_target(*number, apic) && apic.accepts(&message)
            })
            .map(|(number, processor)| (number, processor.apic.arbitration_priority()))
            .collect();
        if message.mode == DeliveryMode::LowestPriority {
            let lowest = lowest_priority(&targets, message.vector);
            targets.retain(|(number, _)| Some(*number) == lowest);
        }
        for (number, _) in &targets {
            if let Some(processor) = self.processors.get_mut(*number) {
                processor.deliver(message, sender);
            }
        }
        !targets.is_empty()
    }
}

/// Returns the lowest input whose bit is set: that of the highest priority, unless priorities rotate.
fn lowest_input(inputs: u8) -> Option<u8> {
    u8::try_from(inputs.trailing_zeros()).ok().filter(|irq| *irq < 8)
}

fn line_source(input: u32) -> InterruptSource {
    if input == u32::from(PIT_INPUT) { InterruptSource::Pit } else { InterruptSource::Line(input) }
}

/// Returns true for the ports of the timer, with port 0x61.
const fn is_pit_port(port: u16) -> bool {
    matches!(port, 0x40..=0x43 | 0x61)
}
