//! State of the interrupts of a vCPU for reports: what is in service, and what waits and why. No call here changes anything.

use super::i8259::PicRegisters;
use super::local_apic::MIN_VECTOR;
use super::local_apic::timer::TimerMode;
use super::local_apic::view::{ApicTimerView, ApicWaiting};
use super::processor::Activity;
use super::{INPUTS, InterruptSource, Irqchip, PIC_INPUTS, line_source, lowest_input};

/// Interrupts of a vCPU at some moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterruptStatus {
    pub(crate) activity: Activity,
    /// Highest interrupt in service of the local APIC: its handler has not ended it.
    pub(crate) in_service: Option<(u8, Option<InterruptSource>)>,
    /// Interrupt that waits and is not delivered.
    pub(crate) waiting: Option<WaitingInterrupt>,
    /// Sources that are all that could interrupt the vCPU: their inputs are unmasked, no timer is armed, and nothing waits.
    pub(crate) possible: Vec<InterruptSource>,
    /// Interrupt that the vCPU sent to a destination that no local APIC has: its vector and the number in the message.
    pub(crate) lost_ipi: Option<(u8, u32)>,
}

/// Interrupt that waits, or that its source cannot request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitingInterrupt {
    /// Vector of the interrupt; `None` if it has none yet.
    pub(crate) vector: Option<u8>,
    /// Origin of the interrupt; `None` if the controllers do not tell.
    pub(crate) source: Option<InterruptSource>,
    /// Reasons why it is not delivered, at least one.
    pub(crate) obstacles: Vec<InterruptObstacle>,
}

/// Reason why an interrupt is not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InterruptObstacle {
    /// RFLAGS.IF is 0.
    InterruptsDisabled,
    /// An interrupt of the same or of a higher priority is in service in the local APIC (ISR).
    InService {
        /// Vector of the interrupt in service.
        vector: u8,
    },
    /// The task-priority register holds the interrupt back.
    TaskPriority {
        /// Value of the register (TPR).
        priority: u8,
    },
    /// An input of the same or of a higher priority is in service in an 8259A.
    InServiceAtPic {
        /// Input in service, 0 to 15.
        input: u8,
    },
    /// The input is masked in the 8259As (IMR), and in the IOAPIC if there is an edge for it.
    Masked {
        /// Input that is masked, 0 to 15.
        input: u8,
    },
    /// Input 2 of the first 8259A, to which the second one leads, is masked.
    CascadeMasked,
    /// LINT0 of the local APIC, to which the 8259As lead, is masked or does not take their vectors.
    Lint0Masked,
    /// The local APIC is disabled by software (SVR bit 8), which masks its timer.
    ApicDisabled,
    /// The entry of the timer in the local vector table is masked.
    TimerMasked,
    /// The vector is below 16, and the local APIC drops such interrupts (SDM vol. 3, 11.5.2).
    IllegalVector,
    /// The timer counted down once and is not armed again.
    TimerExpired,
}

impl Irqchip {
    /// Returns the interrupts of a vCPU whose RFLAGS.IF is `interrupts`.
    pub(crate) fn status(&self, vcpu: usize, interrupts: bool) -> Option<InterruptStatus> {
        let processor = self.processors.get(vcpu)?;
        let in_service = processor.apic.in_service().map(|vector| (vector, self.source_of(vcpu, vector)));
        let waiting = self
            .waiting_in_apic(vcpu, interrupts)
            .or_else(|| self.waiting_in_pics(vcpu, interrupts))
            .or_else(|| if interrupts { self.unable_to_request(vcpu) } else { None });
        let is_idle = interrupts && waiting.is_none() && in_service.is_none() && self.next_event().is_none();
        let possible = (0..INPUTS).filter(|input| is_idle && self.is_unmasked(*input));
        let possible = possible.map(|input| line_source(input.into())).collect();
        Some(InterruptStatus {
            possible,
            activity: processor.activity(),
            in_service,
            waiting,
            lost_ipi: processor.lost_ipi,
        })
    }

    /// Returns the highest interrupt that waits in the local APIC.
    fn waiting_in_apic(&self, vcpu: usize, interrupts: bool) -> Option<WaitingInterrupt> {
        let ApicWaiting { vector, in_service, task_priority } = self.processors.get(vcpu)?.apic.waiting()?;
        let mut obstacles = Vec::new();
        if !interrupts {
            obstacles.push(InterruptObstacle::InterruptsDisabled);
        }
        obstacles.extend(in_service.map(|vector| InterruptObstacle::InService { vector }));
        obstacles.extend(task_priority.map(|priority| InterruptObstacle::TaskPriority { priority }));
        let source = self.source_of(vcpu, vector);
        (!obstacles.is_empty()).then_some(WaitingInterrupt { vector: Some(vector), source, obstacles })
    }

    /// Returns an interrupt that waits in the PICs, behind one in service or for the vCPU.
    fn waiting_in_pics(&self, vcpu: usize, interrupts: bool) -> Option<WaitingInterrupt> {
        let pics = &self.pc.as_ref().filter(|_| vcpu == 0)?.pics;
        let [master, slave] = pics.registers();
        let is_open = self.processors.first()?.apic.takes_pic_vectors();
        let waiting = |first: u8, chip: &PicRegisters, obstacle: Option<InterruptObstacle>| {
            let irq = lowest_input(chip.irr & !chip.imr)?;
            let mut obstacles = Vec::new();
            if !interrupts {
                obstacles.push(InterruptObstacle::InterruptsDisabled);
            }
            if !is_open {
                obstacles.push(InterruptObstacle::Lint0Masked);
            }
            let in_service = lowest_input(chip.isr).filter(|in_service| *in_service <= irq);
            let in_service = in_service.map(|irq| InterruptObstacle::InServiceAtPic { input: first + irq });
            obstacles.extend(in_service.or(obstacle));
            let vector = chip.vector_base.map(|base| base + irq);
            let source = Some(line_source((first + irq).into()));
            (!obstacles.is_empty()).then_some(WaitingInterrupt { vector, source, obstacles })
        };
        // The slave requests input 2 of the master.
        let cascade = if master.imr & 1 << 2 != 0 {
            Some(InterruptObstacle::CascadeMasked)
        } else {
            lowest_input(master.isr)
                .filter(|irq| *irq <= 2)
                .map(|input| InterruptObstacle::InServiceAtPic { input })
        };
        let is_ready = |chip: &&PicRegisters| chip.vector_base.is_some();
        let by_slave = Some(&slave).filter(is_ready).and_then(|slave| waiting(8, slave, cascade));
        let own = PicRegisters { irr: master.irr & !(1 << 2), ..master };
        by_slave.or_else(|| Some(&own).filter(is_ready).and_then(|master| waiting(0, master, None)))
    }

    /// Returns a source that would interrupt, but is masked or cannot.
    fn unable_to_request(&self, vcpu: usize) -> Option<WaitingInterrupt> {
        let apic = &self.processors.get(vcpu)?.apic;
        let ApicTimerView { entry, mode, initial_count, expiry, .. } = apic.timer_view(self.now);
        let obstacle = if !apic.is_software_enabled() {
            Some(InterruptObstacle::ApicDisabled)
        } else if entry.masked {
            Some(InterruptObstacle::TimerMasked)
        } else if entry.vector < MIN_VECTOR {
            Some(InterruptObstacle::IllegalVector)
        } else {
            expiry.is_none().then_some(InterruptObstacle::TimerExpired)
        };
        let is_set_up = match mode {
            TimerMode::OneShot | TimerMode::Periodic => initial_count != 0,
            TimerMode::TscDeadline => false,
        };
        if let Some(obstacle) = obstacle.filter(|_| is_set_up) {
            return Some(WaitingInterrupt {
                vector: (!entry.masked).then_some(entry.vector),
                source: Some(InterruptSource::ApicTimer),
                obstacles: vec![obstacle],
            });
        }
        // A masked input is what the guest waits for only if it can wait for nothing else.
        if self.has_unmasked_input() || self.next_event().is_some() {
            return None;
        }
        let pc = self.pc.as_ref().filter(|_| vcpu == 0)?;
        let requests = pc.pics.registers().map(|chip| chip.irr & chip.imr);
        let requested = u16::from_le_bytes(requests) & !(1 << 2);
        let masked = (0..PIC_INPUTS).find(|input| requested >> input & 1 != 0 && !self.is_unmasked(*input));
        let obstacle = masked.map(|input| (input, InterruptObstacle::Masked { input }));
        let [_, slave] = pc.pics.registers();
        let behind_cascade = || {
            let input = lowest_input(!slave.imr).filter(|_| slave.vector_base.is_some())?;
            Some((8 + input, InterruptObstacle::CascadeMasked))
        };
        let (input, obstacle) = obstacle.or_else(behind_cascade)?;
        let source = Some(line_source(input.into()));
        Some(WaitingInterrupt { vector: None, source, obstacles: vec![obstacle] })
    }
}
