//! The cause in words: two or three sentences that a beginner understands and that leave nothing out.
//!
//! The first paragraph of a report is made here, from the values that the examination found. Addresses get names from the
//! caller, who knows the guest's symbols and source lines.

use std::fmt::Write as _;

use crate::cpu::cpu_state::OperandWidth;
use crate::disassembly::decode;
use crate::machine::end::{End, internal_error_name};

use super::delivery::{DeliveryOutcome, GateFound};
use super::exception_chain::{ChainEnd, ChainLink, ExceptionChain};
use super::instruction_trace::{DeliveredException, TracedInstruction};
use super::{Autopsy, AutopsyNote, Cause};

/// Names an address, as `main+0x10 (hello.c:12)`.
pub type Names<'a> = dyn Fn(u64) -> Option<String> + 'a;

/// An address with its name.
#[must_use]
pub fn place(address: u64, names: &Names<'_>) -> String {
    match names(address) {
        Some(name) => format!("{address:#x} <{name}>"),
        None => format!("{address:#x}"),
    }
}

/// An instruction as text; its bytes where they are none.
#[must_use]
pub fn code(bytes: &[u8], width: OperandWidth, linear: u64) -> String {
    match decode(bytes, width, linear) {
        Some(instruction) => instruction.text,
        None if bytes.is_empty() => "(no instruction)".to_owned(),
        None => {
            let shown: Vec<String> = bytes.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("(bytes {} ...)", shown.join(" "))
        }
    }
}

impl Autopsy {
    /// The first paragraph: the cause.
    #[must_use]
    pub fn summary(&self, names: &Names<'_>) -> String {
        let mut text = String::new();
        match &self.cause {
            Cause::Exception => self.exception(&mut text, names),
            Cause::Refused(refusal) => {
                let _ = write!(
                    text,
                    "KVM could not execute {}: {}. What helps: {}.",
                    self.here(names),
                    refusal.why,
                    refusal.advice
                );
                self.while_open(&mut text, names);
            }
            Cause::NoCode => {
                let _ = write!(
                    text,
                    "The CPU came to {}, where no memory is, and KVM could not go on",
                    self.at(names)
                );
                text.push('.');
                self.led_here(&mut text, names);
                self.while_open(&mut text, names);
            }
            Cause::FailEntry { reason } => {
                let _ = write!(
                    text,
                    "The CPU refused to enter the guest (hardware reason {reason:#x}): the state of the vCPU is not one that \
                     it allows. It is shown below; most often a segment, CR0, CR4 or EFER do not fit each other."
                );
            }
            Cause::Halt { interrupts: false } => {
                let _ = write!(
                    text,
                    "The guest executed {} with interrupts off (cli; hlt): nothing can ever wake it.",
                    self.here(names)
                );
            }
            Cause::Halt { interrupts: true } => {
                let _ = write!(
                    text,
                    "The guest executed {} and waits for an interrupt, on a machine that has no source of any.",
                    self.here(names)
                );
            }
            Cause::Hang(hang) => self.hang(&mut text, hang, names),
            Cause::UnmappedAccess(access) => {
                let _ = write!(text, "{} did a {access}.", self.here(names));
                // The sentence begins with an instruction, in quotes.
            }
            Cause::Ended => {
                let _ = write!(text, "The run ended at {}: {}.", self.here(names), self.end);
            }
            Cause::Unknown => self.unknown(&mut text, names),
        }
        text
    }

    fn exception(&self, text: &mut String, names: &Names<'_>) {
        let Some(chain) = &self.chain else { return };
        let Some(ChainLink { fault, .. }) = chain.links.first() else { return };
        let fetched = self.instruction.as_ref().is_some_and(|code| !code.bytes.is_empty());
        if let End::InternalError { .. } = self.end {
            let _ = write!(
                text,
                "KVM gave up at {} instead of raising {}: {}",
                self.here(names),
                fault.name(),
                fault.why
            );
            text.push('.');
            return;
        }
        if fetched {
            let _ = write!(text, "{} raised {}: {}", self.here(names), fault.name(), fault.why);
        } else {
            let _ = write!(
                text,
                "The instruction fetch at {} raised {}: {}",
                self.at(names),
                fault.name(),
                fault.why
            );
        }
        text.push('.');
        if !fetched {
            self.led_here(text, names);
        }
        self.accuse(text, names);
        self.while_open(text, names);
        let no_gates =
            self.tables.as_ref().is_some_and(|tables| tables.idt_readable && tables.gates.is_empty());
        deliveries(text, chain, &self.end, no_gates, names);
    }

    /// In which handlers all this happened.
    fn while_open(&self, text: &mut String, names: &Names<'_>) {
        let Some(raised) = self.open.last() else { return };
        let _ = write!(text, " This was in the handler of {}", of_raised(raised, names));
        let more = self.open.len() - 1;
        if more > 0 {
            let others =
                if more == 1 { "one more handler".to_owned() } else { format!("{more} more handlers") };
            let _ = write!(text, ", inside {others} that had not returned");
        }
        text.push('.');
    }

    /// How control came to where it is.
    fn led_here(&self, text: &mut String, names: &Names<'_>) {
        let Some(last) =
            self.before.last().filter(|last| super::tables::is_jump(last) || last.raised.is_none())
        else {
            return;
        };
        if super::tables::is_jump(last) {
            let _ = write!(text, " {} led there.", executed(last, names));
        }
    }

    fn unknown(&self, text: &mut String, names: &Names<'_>) {
        let _ = if let End::InternalError { suberror, .. } = &self.end {
            write!(text, "KVM could not go on at {}: {}.", self.here(names), internal_error_name(*suberror))
        } else if self.end == End::Shutdown
            && self.instruction.is_some()
            && self.notes.iter().any(|note| matches!(note, AutopsyNote::OutOfTime(_)))
        {
            write!(
                text,
                "The vCPU shut down, which mostly means a triple fault. In the time there was, the guest was followed as far \
                 as {}; its end is some way behind.",
                self.here(names)
            )
        } else if self.end == End::Shutdown && self.instruction.is_none() {
            write!(
                text,
                "The vCPU shut down, which mostly means a triple fault, and this host does not keep its registers. The state before it could not be established; the notes say why."
            )
        } else {
            write!(
                text,
                "The run ended at {}: {}. Nothing in the state before it explains why.",
                self.here(names),
                self.end
            )
        };
    }

    /// The instruction with its place, in quotes.
    pub(super) fn here(&self, names: &Names<'_>) -> String {
        match &self.instruction {
            Some(found) if !found.bytes.is_empty() => {
                format!(
                    "`{}` at {}",
                    code(&found.bytes, found.width, found.linear),
                    place(found.linear, names)
                )
            }
            Some(found) => place(found.linear, names),
            None => "an unknown place".to_owned(),
        }
    }

    fn at(&self, names: &Names<'_>) -> String {
        self.instruction
            .as_ref()
            .map_or_else(|| "an unknown place".to_owned(), |found| place(found.linear, names))
    }
}

/// What became of the faults.
fn deliveries(text: &mut String, chain: &ExceptionChain, end: &End, no_gates: bool, names: &Names<'_>) {
    if let (End::Exception { .. }, Some(last)) = (end, chain.links.last()) {
        if chain.links.len() > 1 {
            let _ = write!(text, " That became {}: {}.", last.fault.name(), last.fault.why);
        }
        text.push_str(" Ring 3 has no handler of its own, so the run ended there.");
        return;
    }
    let found = |link: &ChainLink| link.delivery.gate.is_some();
    if let (true, ChainEnd::TripleFault, [first, _, ..]) =
        (no_gates && chain.links.iter().all(found), &chain.end, chain.links.as_slice())
        && let DeliveryOutcome::Failed(failure) = &first.delivery.outcome
    {
        let then: Vec<String> = chain.links.iter().skip(1).map(|link| link.fault.mnemonic()).collect();
        let _ = write!(
            text,
            " {} could not be delivered: {}, as are all others, since the guest has set up no IDT. So it became {}, which could \
             not be delivered either. That is a triple fault, and the CPU shut down.",
            first.fault.mnemonic(),
            failure.why,
            then.join(", then ")
        );
        return;
    }
    for (number, link) in chain.links.iter().enumerate() {
        let DeliveryOutcome::Failed(failure) = &link.delivery.outcome else { continue };
        let again = if number == 0 { "" } else { " either" };
        let name = link.fault.mnemonic();
        let _ = write!(text, " {name} could not be delivered{again}: {}", failure.why);
        match chain.links.get(number + 1) {
            Some(next) if next.fault.vector == 8 => text.push_str(", which made it a double fault (#DF)."),
            Some(next) => {
                let _ = write!(text, ", which raised {}.", next.fault.mnemonic());
            }
            None => text.push('.'),
        }
    }
    match &chain.end {
        ChainEnd::TripleFault => text.push_str(" That is a triple fault, and the CPU shut down."),
        ChainEnd::Recursion(handler) => {
            let _ = write!(
                text,
                " Its handler is at {}, which faults in the same way: so each exception raised the next, until the stack was used up.",
                place(handler.linear, names)
            );
        }
        ChainEnd::Handler(handler) => {
            let _ = write!(
                text,
                " Its handler at {} was reached; what it did was not seen.",
                place(handler.linear, names)
            );
        }
        ChainEnd::Unknown => {}
    }
}

/// A number of instructions.
pub(super) fn instructions(count: u64) -> String {
    if count == 1 { "1 instruction".to_owned() } else { format!("{count} instructions") }
}

/// An instruction of the past with its place, in quotes.
pub(super) fn executed(past: &TracedInstruction, names: &Names<'_>) -> String {
    format!("`{}` at {}", code(&past.bytes, past.width, past.linear), place(past.linear, names))
}

fn of_raised(raised: &DeliveredException, names: &Names<'_>) -> String {
    let instruction = code(&raised.bytes, raised.width, raised.at);
    let by = match raised.gate {
        Some(GateFound::Vector { segment, offset, .. }) => {
            format!(", {segment:04x}:{offset:04x} by the vector table")
        }
        Some(GateFound::Gate { .. }) | None => String::new(),
    };
    format!(
        "{} (at {}{by}), which `{instruction}` at {} had raised: {}",
        raised.delivered.mnemonic(),
        place(raised.handler, names),
        place(raised.at, names),
        raised.fault.why
    )
}
