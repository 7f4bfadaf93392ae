//! Exception chain: an exception, the exceptions that failed deliveries raise, and the end of the chain.
//!
//! An exception during the delivery of another one is delivered in its turn or becomes a double fault, depending on the
//! classes of both. An exception during the delivery of a double fault shuts the CPU down (SDM vol. 3, tables 6-4 and 6-5,
//! and 6.15, "Interrupt 8").

use crate::cpu::control_regs::Cr0;

use super::delivery::{Delivery, DeliveryOutcome, ExceptionHandler};
use super::exception::{Exception, ExceptionClass};
use super::fetch::FetchResult;
use crate::cpu::cpu_state::CpuState;
use crate::machine::guest_state::GuestState;

/// Exception of a chain and its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainLink {
    /// Exception that was raised.
    pub fault: Exception,
    /// Delivery of the exception: its gate and result.
    pub delivery: Delivery,
}

/// Last event of an exception chain: a handler, a triple fault, or neither.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChainEnd {
    /// Failed delivery of a double fault: the CPU shuts down.
    TripleFault,
    /// The CPU reached the first instruction of a handler.
    Handler(ExceptionHandler),
    /// Control reached a handler whose first instruction raises the same exception again, without end.
    RecursiveFault(ExceptionHandler),
    /// Task switch, or a chain longer than any CPU produces.
    Unknown,
}

/// Chain of exceptions, each raised by the failed delivery of the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExceptionChain {
    /// Exceptions in order, at least one.
    pub links: Vec<ChainLink>,
    /// Last event of the chain: a handler, a triple fault, or neither.
    pub end: ChainEnd,
}

/// Maximum length of a chain. A real one has at most three links: benign, contributory, double fault.
const MAX_LINKS: usize = 8;

impl GuestState<'_> {
    /// Computes the chain that an exception starts.
    #[must_use]
    pub fn exception_chain(&self, first: Exception) -> ExceptionChain {
        let (mut links, mut fault): (Vec<ChainLink>, Exception) = (Vec::new(), first);
        while links.len() < MAX_LINKS {
            let delivery = self.deliver(&fault);
            let outcome = delivery.outcome.clone();
            links.push(ChainLink { fault: fault.clone(), delivery });
            let next = match outcome {
                DeliveryOutcome::Handler(handler) => {
                    return ExceptionChain { end: self.handler_end(&fault, handler), links };
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

    /// Returns the end of a chain that reached a handler, by the fetch of its first instruction.
    fn handler_end(&self, fault: &Exception, handler: ExceptionHandler) -> ChainEnd {
        let mut registers: CpuState = *self.registers;
        if !registers.cr0().contains(Cr0::PE) {
            return ChainEnd::Handler(handler);
        }
        registers.regs.rip = handler.offset;
        registers.regs.rsp = handler.stack_pointer;
        registers.sregs.ss.dpl = 0;
        let guest = GuestState { registers: &registers, ..*self };
        match guest.fetch() {
            FetchResult::Fault(next) if next.vector == fault.vector => ChainEnd::RecursiveFault(handler),
            FetchResult::Fault(_)
            | FetchResult::Instruction(..)
            | FetchResult::Invalid(_)
            | FetchResult::Unmapped => ChainEnd::Handler(handler),
        }
    }
}

/// Combines an exception with one raised during its delivery. `None`: the CPU shuts down.
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
