//! The chain of exceptions: a first fault, why its delivery failed, what came of that, down to the triple fault.
//!
//! Two faults in a row are handled one after the other or become a double fault, by their classes; a fault while a double
//! fault is delivered shuts the CPU down (SDM vol. 3, tables 6-4 and 6-5, and 6.15, "Interrupt 8").

use crate::control::Cr0;

use super::delivery::{Delivery, Handler, Outcome};
use super::fault::{Class, Fault};
use super::moment::{Fetched, Moment, Registers};

/// One fault and its delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The fault.
    pub fault: Fault,
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
pub struct Chain {
    /// The first fault first; at least one.
    pub links: Vec<Link>,
    /// How it ends.
    pub end: ChainEnd,
}

/// A benign fault, a contributory one, a double fault, and some to spare.
const LONGEST: usize = 8;

impl Moment<'_> {
    /// Follows a fault to its end.
    #[must_use]
    pub fn chain(&self, first: Fault) -> Chain {
        let (mut links, mut fault): (Vec<Link>, Fault) = (Vec::new(), first);
        while links.len() < LONGEST {
            let delivery = self.deliver(&fault);
            let outcome = delivery.outcome.clone();
            links.push(Link { fault: fault.clone(), delivery });
            let next = match outcome {
                Outcome::Handler(handler) => return Chain { end: self.at_handler(&fault, handler), links },
                Outcome::TaskSwitch => return Chain { links, end: ChainEnd::Unknown },
                Outcome::Failed(next) => next,
            };
            fault = match combine(&fault, next) {
                Some(fault) => fault,
                None => return Chain { links, end: ChainEnd::TripleFault },
            };
        }
        Chain { links, end: ChainEnd::Unknown }
    }

    /// Whether a handler can run at all: its first instruction is looked at.
    fn at_handler(&self, fault: &Fault, handler: Handler) -> ChainEnd {
        let mut registers: Registers = *self.registers;
        if !registers.cr0().contains(Cr0::PE) {
            return ChainEnd::Handler(handler);
        }
        registers.regs.rip = handler.offset;
        registers.regs.rsp = handler.stack;
        registers.sregs.ss.dpl = 0;
        let moment = Moment { registers: &registers, ..*self };
        match moment.fetch() {
            Fetched::Fault(next) if next.vector == fault.vector => ChainEnd::Recursion(handler),
            Fetched::Fault(_) | Fetched::Instruction(..) | Fetched::Invalid(_) | Fetched::NoMemory => {
                ChainEnd::Handler(handler)
            }
        }
    }
}

/// What two faults in a row become; `None` is the end of the CPU.
fn combine(first: &Fault, second: Fault) -> Option<Fault> {
    let double = |second: Fault| {
        let why = format!("{} while {} was delivered", second.mnemonic(), first.mnemonic());
        let error_code = second.error_code.map(|_| 0);
        Some(Fault::new(8, error_code, why))
    };
    match (first.class(), second.class()) {
        (Class::DoubleFault, _) => None,
        (Class::Contributory, Class::Contributory) => double(second),
        (Class::PageFault, Class::Contributory | Class::PageFault) => double(second),
        (Class::Benign | Class::Contributory | Class::PageFault, _) => Some(second),
    }
}
