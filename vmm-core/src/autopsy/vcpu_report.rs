//! vCPUs of a machine whose interrupt controllers are in this process, as they were when its run ended: what each does, which interrupt
//! is in service, and which one waits and why.

use std::fmt::Write as _;

use crate::cpu::cpu_state::CpuState;
use crate::devices::installed;
use crate::devices::irqchip::processor::Activity;
use crate::devices::irqchip::status::{InterruptObstacle, InterruptStatus};
use crate::devices::{InterruptSource, irqchip::SharedIrqchip};
use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::processor::{Processor, has_interrupts_on};
use crate::spec::MachineSpec;

use super::hang::{HangKind, PolledMemory};
use super::hang_summary::describe_polled;
use super::last_interrupt::ReturnKind;
use super::summary::{SymbolLookup, capitalized, describe_address, describe_shared_vector, in_brackets};

/// vCPU when the run ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct VcpuReport {
    /// Number of the vCPU.
    pub id: u64,
    /// Registers of the vCPU. After HLT, RIP points behind it.
    pub registers: CpuState,
    /// Activity of the vCPU.
    pub activity: VcpuActivity,
    /// Interrupt in service in the local APIC: its handler has not ended it (EOI).
    pub in_service: Option<NamedInterrupt>,
    /// Linear address of the instruction before which the interrupt in service came, when the guest ran again.
    pub in_service_since: Option<u64>,
    /// Interrupt whose handler returned with interrupts off, when the guest ran again: the linear address before which it came, and
    /// how the handler returned there.
    pub lost_interrupt_flag: Option<(u64, ReturnKind)>,
    /// Interrupt that waits, or whose source cannot request it.
    pub waiting: Option<NamedInterrupt>,
    /// Reasons why the waiting interrupt is not delivered.
    pub obstacles: Vec<InterruptObstacle>,
    /// Sources that are all that could interrupt the vCPU, in words, with what the guest has to do before they do.
    pub possible: Vec<String>,
    /// Interrupt that the vCPU sent to a destination that no local APIC has: its vector, and the number in the message.
    pub lost_ipi: Option<(u8, u32)>,
}

/// Activity of a vCPU when the run ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum VcpuActivity {
    /// Executes instructions. The kind of the hang if they were sampled.
    Running(Option<HangKind>),
    /// Executed HLT.
    Halted {
        /// True if RFLAGS.IF was set.
        interrupts: bool,
    },
    /// Has not received INIT since it was switched on.
    WaitForInit,
    /// Received INIT, and waits for SIPI.
    WaitForSipi,
}

/// Interrupt of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NamedInterrupt {
    /// Vector of the interrupt; `None` if it has none yet.
    pub vector: Option<u8>,
    /// Source of the interrupt in words, such as `the timer of the local APIC`; `None` if it is not known.
    pub source: Option<String>,
}

/// Reads the vCPUs of a stopped machine.
///
/// # Errors
/// [`Error::Kvm`] where registers cannot be read.
pub(super) fn read_vcpus(machine: &Machine, irqchip: &SharedIrqchip) -> Result<Vec<VcpuReport>, Error> {
    let irqchip = irqchip.lock();
    let named = |vector: Option<u8>, source: Option<InterruptSource>| NamedInterrupt {
        vector,
        source: source.map(|source| source.describe(machine.spec())),
    };
    let mut vcpus = Vec::new();
    for (number, processor) in machine.processors.iter().enumerate() {
        let registers = CpuState::from_vcpu(&processor.vcpu)?;
        let Some(status) = irqchip.status(number, has_interrupts_on(&registers.regs)) else {
            continue;
        };
        let InterruptStatus { activity, in_service, waiting, possible, lost_ipi } = status;
        vcpus.push(VcpuReport {
            id: processor.vcpu.id(),
            registers,
            activity: match activity {
                Activity::Active => VcpuActivity::Running(None),
                Activity::Halted { interrupts } => VcpuActivity::Halted { interrupts },
                Activity::WaitForInit => VcpuActivity::WaitForInit,
                Activity::WaitForSipi => VcpuActivity::WaitForSipi,
            },
            in_service: in_service.map(|(vector, source)| named(Some(vector), source)),
            in_service_since: None,
            lost_interrupt_flag: None,
            obstacles: waiting.as_ref().map(|waiting| waiting.obstacles.clone()).unwrap_or_default(),
            waiting: waiting.map(|waiting| named(waiting.vector, waiting.source)),
            possible: possible.into_iter().map(|source| describe_possible(machine, source)).collect(),
            lost_ipi,
        });
    }
    Ok(vcpus)
}

impl VcpuReport {
    /// Returns the memory that the vCPU polls in a loop.
    pub(super) fn polled_memory(&mut self) -> Option<&mut PolledMemory> {
        if let VcpuActivity::Running(Some(HangKind::Loop(found))) = &mut self.activity {
            found.polled_memory.as_mut()
        } else {
            None
        }
    }

    /// Returns true if another vCPU waits at the same place: in the same HLT, or in the same loop.
    pub(super) fn is_like(&self, other: &Processor) -> bool {
        let Ok(registers) = CpuState::from_vcpu(&other.vcpu) else { return false };
        let at = registers.linear_rip();
        match &self.activity {
            // Single steps do not stop before each instruction on some hosts.
            VcpuActivity::Running(Some(HangKind::Loop(found))) => found.body.iter().any(|step| {
                let next = step.linear.wrapping_add(step.bytes.len() as u64);
                [step.linear, next, step.decode().near_branch_target()].contains(&at)
            }),
            VcpuActivity::Running(Some(HangKind::JumpToSelf)) | VcpuActivity::Halted { .. } => {
                self.registers.linear_rip() == at
            }
            VcpuActivity::Running(_) => false,
            VcpuActivity::WaitForInit | VcpuActivity::WaitForSipi => true,
        }
    }

    /// Returns the state of a vCPU in words, as a clause without its subject, such as `has executed HLT with interrupts off`.
    pub(super) fn describe_activity(&self, symbols: &SymbolLookup<'_>) -> String {
        let at = describe_address(self.registers.linear_rip(), symbols);
        match &self.activity {
            VcpuActivity::Running(Some(HangKind::JumpToSelf)) => format!("jumps to itself at {at}"),
            VcpuActivity::Running(Some(HangKind::Loop(found))) => {
                let mut text = "is in a loop".to_owned();
                if let (Some(first), Some(last)) = (found.body.first(), found.body.last()) {
                    let _ = write!(
                        text,
                        " from {} to {}",
                        describe_address(first.linear, symbols),
                        describe_address(last.linear, symbols)
                    );
                }
                if let Some(polled) = &found.polled_memory {
                    let _ = write!(text, " that looks at {}", describe_polled(polled, symbols));
                }
                text
            }
            VcpuActivity::Running(_) => format!("is at {at}"),
            VcpuActivity::Halted { interrupts: true } => format!("waits for an interrupt in HLT before {at}"),
            VcpuActivity::Halted { interrupts: false } => {
                format!("has executed HLT with interrupts off (RFLAGS.IF is 0), before {at}")
            }
            VcpuActivity::WaitForInit => "was never started: it has received no INIT".to_owned(),
            VcpuActivity::WaitForSipi => "has received INIT and waits for SIPI".to_owned(),
        }
    }

    /// Appends sentences about the interrupts of the vCPU, which is one of `several`.
    pub(super) fn describe_interrupts(&self, text: &mut String, several: bool, symbols: &SymbolLookup<'_>) {
        let whom = if several { format!(" for vCPU {}", self.id) } else { String::new() };
        if let Some(waiting) = &self.waiting
            && let [obstacle, ..] = self.obstacles.as_slice()
        {
            let subject = capitalized(&waiting.describe());
            let _ = match obstacle {
                InterruptObstacle::TimerExpired => {
                    write!(text, " The timer of the local APIC has counted down once and is not armed again.")
                }
                InterruptObstacle::ApicDisabled
                | InterruptObstacle::TimerMasked
                | InterruptObstacle::IllegalVector
                | InterruptObstacle::Masked { .. } => {
                    write!(text, " {subject} cannot come: {}.", self.describe_obstacles())
                }
                // It was not requested yet.
                InterruptObstacle::CascadeMasked if waiting.vector.is_none() => {
                    write!(text, " {subject} cannot come: {}.", self.describe_obstacles())
                }
                InterruptObstacle::InterruptsDisabled
                | InterruptObstacle::InService { .. }
                | InterruptObstacle::TaskPriority { .. }
                | InterruptObstacle::InServiceAtPic { .. }
                | InterruptObstacle::CascadeMasked
                | InterruptObstacle::Lint0Masked => {
                    write!(text, " {subject} waits{whom}: {}.", self.describe_obstacles())
                }
            };
            if let Some(vector) = waiting.vector.filter(|_| *obstacle != InterruptObstacle::IllegalVector) {
                describe_shared_vector(text, vector);
            }
        }
        let is_told = |vector| self.obstacles.contains(&InterruptObstacle::InService { vector });
        if let Some(NamedInterrupt { vector: Some(vector), source }) = &self.in_service {
            if !is_told(*vector) {
                let source = in_brackets(source.as_deref());
                let _ = write!(
                    text,
                    " Vector {vector:#x}{source} is in service: its handler has not ended it (EOI)."
                );
            }
            if let Some(at) = self.in_service_since {
                let at = describe_address(at, symbols);
                let _ = write!(text, " When the guest ran again, it had come at {at}.");
            }
        }
        if let Some((at, kind)) = self.lost_interrupt_flag {
            let at = describe_address(at, symbols);
            let how = match kind {
                ReturnKind::Iret => "with IF cleared in the RFLAGS that its IRET took from the stack",
                ReturnKind::WithoutIret => "without IRET, which would have set IF again",
            };
            let _ = write!(
                text,
                " When the guest ran again, the handler of the last interrupt, which came at {at}, returned {how}."
            );
        }
        if !self.possible.is_empty() {
            let _ = write!(
                text,
                " Only these could interrupt it, and none requests to: {}.",
                self.possible.join(", ")
            );
        }
        if let Some((vector, destination)) = self.lost_ipi {
            let _ = write!(
                text,
                " It sent an interrupt with vector {vector:#x} to APIC {destination}, which no vCPU has."
            );
        }
    }

    fn describe_obstacles(&self) -> String {
        let words = self.obstacles.iter().map(|obstacle| match obstacle {
            InterruptObstacle::InterruptsDisabled => "interrupts are off (RFLAGS.IF is 0)".to_owned(),
            InterruptObstacle::InService { vector } => {
                format!("vector {vector:#x} is still in service, since its handler has not ended it (EOI)")
            }
            InterruptObstacle::TaskPriority { priority } => {
                let first = u16::from(priority | 0xf) + 1;
                match first {
                    ..0x100 => format!("the task priority (TPR) is {priority:#x}, which lets only vectors from {first:#x} on pass"),
                    _ => format!("the task priority (TPR) is {priority:#x}, which lets no vector pass"),
                }
            }
            InterruptObstacle::InServiceAtPic { input } => {
                format!(
                    "input {input} is still in service in the {} 8259A, since no EOI has ended it",
                    if *input < 8 { "first" } else { "second" }
                )
            }
            InterruptObstacle::Masked { input } => {
                format!("input {input} is masked in the 8259A and in the IOAPIC")
            }
            InterruptObstacle::CascadeMasked => {
                "input 2 of the first 8259A, to which the second one leads, is masked".to_owned()
            }
            InterruptObstacle::Lint0Masked => {
                "LINT0 of the local APIC, to which the 8259A leads, is masked".to_owned()
            }
            InterruptObstacle::ApicDisabled => {
                "the local APIC is disabled by software (SVR bit 8 is 0), which masks its timer".to_owned()
            }
            InterruptObstacle::TimerMasked => "its entry in the local vector table is masked".to_owned(),
            InterruptObstacle::IllegalVector => {
                "the local APIC drops interrupts with vectors below 16".to_owned()
            }
            InterruptObstacle::TimerExpired => "the timer counted down once".to_owned(),
        });
        words.collect::<Vec<_>>().join(", and ")
    }
}

/// Returns a source of interrupts in words, with the access that it waits for.
fn describe_possible(machine: &Machine, source: InterruptSource) -> String {
    let words = source.describe(machine.spec());
    let InterruptSource::Line(input) = source else { return words };
    let devices = installed(&machine.spec().devices);
    let access = devices
        .iter()
        .filter(|device| device.irqs.contains(&input))
        .find_map(|device| machine.board.ports.awaited_access(device.name));
    match access {
        Some(access) => format!("{words}, which waits for {access} first"),
        None => words,
    }
}

impl NamedInterrupt {
    /// Returns the interrupt in words, such as `the interrupt with vector 0x40 (the timer of the local APIC)`.
    fn describe(&self) -> String {
        match (self.vector, &self.source) {
            (Some(vector), source) => {
                format!("the interrupt with vector {vector:#x}{}", in_brackets(source.as_deref()))
            }
            (None, Some(source)) => format!("the interrupt of {source}"),
            (None, None) => "an interrupt".to_owned(),
        }
    }
}

impl InterruptSource {
    /// Returns the source in words, such as `the timer of the local APIC`.
    pub(super) fn describe(self, spec: &MachineSpec) -> String {
        let device = |input: u32| {
            let devices = installed(&spec.devices);
            let device = devices.iter().find(|device| device.irqs.contains(&input));
            device.map_or_else(|| format!("interrupt input {input}"), |device| device.title.to_owned())
        };
        match self {
            Self::ApicTimer => "the timer of the local APIC".to_owned(),
            Self::Pit => "the 8254 timer".to_owned(),
            Self::Line(input) => device(input),
            Self::Ipi(sender) => format!("an IPI of vCPU {sender}"),
        }
    }
}
