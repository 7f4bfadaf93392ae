//! The chain of exceptions: a first fault, why its delivery failed, what came of that, down to the triple fault.
//!
//! Two faults in a row are handled one after the other or become a double fault, by their classes; a fault while a double
//! fault is delivered shuts the CPU down (SDM vol. 3, tables 6-4 and 6-5, and 6.15, "Interrupt 8").

use crate::cpu::control_regs::Cr0;

use super::delivery::{Delivery, DeliveryOutcome, Handler};
use super::exception::{Exception, ExceptionClass};
use super::fetch::Fetched;
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// One fault and its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainLink {
    /// The fault.
    pub fault: Exception,
    /// What became of its delivery.
    pub delivery: Delivery,
}

/// How a chain ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEnd {
    /// The double fault could not be delivered either: shutdown.
    TripleFault,
    /// A handler runs.
    Handler(Handler),
    /// A handler was reached, but its first instruction raises the same exception again, and so on for ever.
    Recursion(Handler),
    /// A task switch, or more faults than any CPU would raise.
    Unknown,
}

/// Faults that follow from one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionChain {
    /// The first fault first; at least one.
    pub links: Vec<ChainLink>,
    /// How it ends.
    pub end: ChainEnd,
}

/// A benign fault, a contributory one, a double fault, and some to spare.
const MAX_LINKS: usize = 8;

impl GuestState<'_> {
    /// Follows a fault to its end.
    #[must_use]
    pub fn chain(&self, first: Exception) -> ExceptionChain {
        let (mut links, mut fault): (Vec<ChainLink>, Exception) = (Vec::new(), first);
        while links.len() < MAX_LINKS {
            let delivery = self.deliver(&fault);
            let outcome = delivery.outcome.clone();
            links.push(ChainLink { fault: fault.clone(), delivery });
            let next = match outcome {
                DeliveryOutcome::Handler(handler) => {
                    return ExceptionChain { end: self.at_handler(&fault, handler), links };
                }
                DeliveryOutcome::TaskSwitch => return ExceptionChain { links, end: ChainEnd::Unknown },
                DeliveryOutcome::Failed(next) => next,
            };
            fault = match combine(&fault, next) {
                Some(fault) => fault,
                None => return ExceptionChain { links, end: ChainEnd::TripleFault },
            };
        }
        ExceptionChain { links, end: ChainEnd::Unknown }
    }

    /// Whether a handler can run at all: its first instruction is looked at.
    fn at_handler(&self, fault: &Exception, handler: Handler) -> ChainEnd {
        let mut registers: CpuState = *self.registers;
        if !registers.cr0().contains(Cr0::PE) {
            return ChainEnd::Handler(handler);
        }
        registers.regs.rip = handler.offset;
        registers.regs.rsp = handler.stack;
        registers.sregs.ss.dpl = 0;
        let moment = GuestState { registers: &registers, ..*self };
        match moment.fetch() {
            Fetched::Fault(next) if next.vector == fault.vector => ChainEnd::Recursion(handler),
            Fetched::Fault(_) | Fetched::Instruction(..) | Fetched::Invalid(_) | Fetched::NoMemory => {
                ChainEnd::Handler(handler)
            }
        }
    }
}

/// What two faults in a row become; `None` is the end of the CPU.
fn combine(first: &Exception, second: Exception) -> Option<Exception> {
    let double = |second: Exception| {
        let why = format!("{} while {} was delivered", second.mnemonic(), first.mnemonic());
        let error_code = second.error_code.map(|_| 0);
        Some(Exception::new(8, error_code, why))
    };
    match (first.class(), second.class()) {
        (ExceptionClass::DoubleFault, _) => None,
        (ExceptionClass::Contributory, ExceptionClass::Contributory) => double(second),
        (ExceptionClass::PageFault, ExceptionClass::Contributory | ExceptionClass::PageFault) => {
            double(second)
        }
        (ExceptionClass::Benign | ExceptionClass::Contributory | ExceptionClass::PageFault, _) => {
            Some(second)
        }
    }
}
