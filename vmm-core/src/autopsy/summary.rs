//! Report text for the cause: the first paragraph of a report, two or three sentences for beginners.
//!
//! The caller supplies names of addresses from the symbols and source lines of the guest.

use std::fmt::Write as _;

use crate::cpu::control_regs::Cr0;
use crate::cpu::cpu_state::OperandWidth;
use crate::cpu::ring3_trap::exception_name;
use crate::devices::irqchip::processor::NMI;
use crate::disassembly::decode;
use crate::machine::end::{End, internal_error_name};
use crate::spec::Interrupts;

use super::delivery::{DeliveryOutcome, IdtEntry};
use super::exception::Exception;
use super::exception_chain::{ChainEnd, ChainLink, ExceptionChain};
use super::hang::HangKind;
use super::instruction_trace::{DeliveredException, TracedInstruction};
use super::{Autopsy, AutopsyNote, Cause};

/// Function that returns the name of a linear address, such as `main+0x10 (hello.c:12)`.
pub type SymbolLookup<'a> = dyn Fn(u64) -> Option<String> + 'a;

/// Returns an address with its name.
#[must_use]
pub fn describe_address(address: u64, symbols: &SymbolLookup<'_>) -> String {
    match symbols(address) {
        Some(name) => format!("{address:#x} <{name}>"),
        None => format!("{address:#x}"),
    }
}

/// Returns an instruction as text, or its first bytes if they do not decode.
#[must_use]
pub fn disassemble(bytes: &[u8], width: OperandWidth, linear: u64) -> String {
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
    /// Returns the first paragraph of the report: the cause.
    #[must_use]
    pub fn summary(&self, symbols: &SymbolLookup<'_>) -> String {
        let mut text = String::new();
        match &self.cause {
            Cause::Exception => self.describe_exception(&mut text, symbols),
            Cause::EmulationFailure(refusal) => {
                let _ = write!(
                    text,
                    "KVM could not execute {}: {}. What helps: {}.",
                    self.describe_instruction(symbols),
                    refusal.reason,
                    refusal.advice
                );
                self.describe_active_exception(&mut text, symbols);
            }
            Cause::UnmappedFetch => {
                let _ = write!(
                    text,
                    "The CPU came to {}, where no memory is, and KVM could not go on",
                    self.describe_location(symbols)
                );
                text.push('.');
                self.describe_last_jump(&mut text, symbols);
                self.describe_active_exception(&mut text, symbols);
            }
            Cause::FailEntry { reason } => {
                let _ = write!(
                    text,
                    "The CPU refused to enter the guest (hardware reason {reason:#x}): the state of the vCPU is not one that \
                     it allows. It is shown below; most often a segment, CR0, CR4 or EFER do not fit each other."
                );
            }
            Cause::Interrupt { vector, source } => {
                let source = source.as_deref().unwrap_or("An interrupt");
                let _ = write!(
                    text,
                    "{} interrupted {} at {}, with {}vector {vector:#x}.",
                    capitalized(source),
                    self.vcpu.map_or_else(|| "the guest".to_owned(), |vcpu| format!("vCPU {vcpu}")),
                    self.describe_instruction(symbols),
                    if *vector == NMI { "an NMI, " } else { "" }
                );
                describe_shared_vector(&mut text, *vector);
                if let Some(chain) = &self.chain {
                    describe_deliveries(&mut text, chain, &self.end, self.no_gates_reason(), symbols);
                }
                self.describe_reset_idtr(&mut text);
            }
            Cause::Halt { interrupts: false, .. } => {
                let _ = write!(
                    text,
                    "The guest executed {} with interrupts off (cli; hlt): nothing can ever wake it.",
                    self.describe_instruction(symbols)
                );
            }
            Cause::Halt { interrupts: true, controllers } => {
                let reason = match controllers {
                    Interrupts::None => ", on a machine without interrupt controllers",
                    _ if self.vcpus.iter().any(|vcpu| vcpu.waiting.is_some()) => "",
                    Interrupts::Split => {
                        ", but no timer of a local APIC is armed, and the machine has no other source"
                    }
                    Interrupts::Pc => {
                        ", but no timer of a local APIC is armed and no input of the interrupt controllers is unmasked"
                    }
                };
                let _ = write!(
                    text,
                    "The guest executed {} and waits for an interrupt{reason}.",
                    self.describe_instruction(symbols)
                );
            }
            Cause::Hang(hang) => self.describe_hang(&mut text, hang, symbols),
            Cause::UnmappedAccess(access) => {
                let _ = write!(text, "{} did a {access}.", self.describe_instruction(symbols));
            }
            Cause::GuestExit => {
                let _ =
                    write!(text, "The run ended at {}: {}.", self.describe_instruction(symbols), self.end);
            }
            Cause::Unknown => self.describe_unknown(&mut text, symbols),
        }
        self.describe_interrupt_in_service(&mut text, symbols);
        self.describe_vcpus(&mut text, symbols);
        text
    }

    /// Appends what the vCPUs of a machine with interrupts wait for.
    fn describe_vcpus(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        // Which interrupts of a storm were seen is by chance.
        if matches!(&self.cause, Cause::Hang(hang) if matches!(**hang, HangKind::InterruptStorm { .. })) {
            return;
        }
        for (number, vcpu) in self.vcpus.iter().enumerate() {
            if number > 0 {
                let _ = write!(text, " vCPU {} {}.", vcpu.id, vcpu.describe_activity(symbols));
            }
            vcpu.describe_interrupts(text, self.vcpus.len() > 1, symbols);
        }
    }

    /// Returns the address at which a guest goes on after HLT, with its name.
    pub(super) fn describe_resumption(&self, symbols: &SymbolLookup<'_>) -> String {
        match self.vcpus.first() {
            Some(vcpu) => describe_address(vcpu.registers.linear_rip(), symbols),
            None => self.describe_location(symbols),
        }
    }

    fn describe_exception(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        let Some(chain) = &self.chain else { return };
        let Some(ChainLink { fault, .. }) = chain.links.first() else { return };
        let fetched = self.instruction.as_ref().is_some_and(|code| !code.bytes.is_empty());
        if let End::InternalError { .. } = self.end {
            let _ = write!(
                text,
                "KVM gave up at {} instead of raising {}: {}",
                self.describe_instruction(symbols),
                fault.name(),
                fault.reason
            );
            text.push('.');
            return;
        }
        if fetched {
            let _ = write!(
                text,
                "{}{} raised {}: {}",
                self.vcpu.map_or_else(String::new, |vcpu| format!("On vCPU {vcpu}, ")),
                self.describe_instruction(symbols),
                fault.name(),
                fault.reason
            );
        } else {
            let _ = write!(
                text,
                "The instruction fetch at {} raised {}: {}",
                self.describe_location(symbols),
                fault.name(),
                fault.reason
            );
        }
        text.push('.');
        if !fetched {
            self.describe_last_jump(text, symbols);
        }
        self.describe_writers(text, symbols);
        self.describe_active_exception(text, symbols);
        describe_deliveries(text, chain, &self.end, self.no_gates_reason(), symbols);
        self.describe_reset_idtr(text);
    }

    /// Appends that IDTR is as after a reset if it is, in a mode in which that is no table.
    fn describe_reset_idtr(&self, text: &mut String) {
        let is_protected = self.registers.is_some_and(|registers| registers.cr0().contains(Cr0::PE));
        if is_protected && self.tables.as_ref().is_some_and(|tables| tables.idt == (0, 0xffff)) {
            text.push_str(" IDTR is as after a reset (base 0, limit 0xffff): no IDT was loaded.");
        }
    }

    /// Appends the interrupt that was in service, or whose handler did not preserve registers.
    fn describe_interrupt_in_service(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        for note in &self.notes {
            if let AutopsyNote::LastInterrupt { vector, source, at, returned, changed } = note {
                let which = format!(
                    "the interrupt with vector {vector:#x}{}, which came at {}",
                    in_brackets(source.as_deref()),
                    describe_address(*at, symbols)
                );
                let changes: Vec<String> = changed
                    .iter()
                    .map(|(name, before, after)| format!("{name} from {before:#x} to {after:#x}"))
                    .collect();
                let _ = match (returned, changes.as_slice()) {
                    (None, _) => write!(text, " This was in the handler of {which}, or in what it called."),
                    (Some(to), _) if to != at => write!(
                        text,
                        " Before that, the handler of {which}, returned to {} instead.",
                        describe_address(*to, symbols)
                    ),
                    (Some(_), []) => Ok(()),
                    (Some(_), changes) => write!(
                        text,
                        " Before that, the handler of {which}, returned with changed registers: {}.",
                        changes.join(", ")
                    ),
                };
                continue;
            }
            let AutopsyNote::InterruptInService { vector, source, at } = note else { continue };
            let _ = write!(
                text,
                " When the guest ran again, the interrupt with vector {vector:#x}{}, which came at {}, was in service at the end: its \
                 handler had not ended it.",
                in_brackets(source.as_deref()),
                describe_address(*at, symbols)
            );
        }
    }

    /// Returns the reason why the IDT has no gates, as the end of a sentence; `None` if it has one, or cannot be read.
    fn no_gates_reason(&self) -> Option<&'static str> {
        let tables = self.tables.as_ref().filter(|tables| tables.idt_readable && tables.gates.is_empty())?;
        let (base, _) = tables.idt;
        // The machine's, or that of a reset.
        let is_initial = base == 0 || Some(base) == self.initial_idt;
        Some(if is_initial { ", since the guest has set up no IDT" } else { " of the guest's IDT" })
    }

    /// Appends the handlers that had not returned.
    fn describe_active_exception(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        let Some(raised) = self.active_exceptions.last() else { return };
        let _ = write!(text, " This was in the handler of {}", describe_delivered(raised, symbols));
        let more = self.active_exceptions.len() - 1;
        if more > 0 {
            let others =
                if more == 1 { "one more handler".to_owned() } else { format!("{more} more handlers") };
            let _ = write!(text, ", inside {others} that had not returned");
        }
        text.push('.');
    }

    /// Appends the jump that led to the current instruction.
    fn describe_last_jump(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        let Some(last) = self
            .previous_instructions
            .last()
            .filter(|last| super::tables::is_jump(last) || last.raised.is_none())
        else {
            return;
        };
        if super::tables::is_jump(last) {
            let _ = write!(text, " {} led there.", describe_traced(last, symbols));
        }
    }

    fn describe_unknown(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        let _ = if let End::InternalError { suberror, .. } = &self.end {
            write!(
                text,
                "KVM could not go on at {}: {}.",
                self.describe_instruction(symbols),
                internal_error_name(*suberror)
            )
        } else if self.end == End::Shutdown
            && self.instruction.is_some()
            && self.notes.iter().any(|note| matches!(note, AutopsyNote::OutOfTime(_)))
        {
            write!(
                text,
                "The vCPU shut down, which mostly means a triple fault. In the time there was, the guest was followed as far \
                 as {}; its end is some way behind.",
                self.describe_instruction(symbols)
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
                self.describe_instruction(symbols),
                self.end
            )
        };
    }

    /// Returns the quoted instruction and its address.
    pub(super) fn describe_instruction(&self, symbols: &SymbolLookup<'_>) -> String {
        match &self.instruction {
            Some(found) if !found.bytes.is_empty() => {
                format!(
                    "`{}` at {}",
                    disassemble(&found.bytes, found.width, found.linear),
                    describe_address(found.linear, symbols)
                )
            }
            Some(found) => describe_address(found.linear, symbols),
            None => "an unknown place".to_owned(),
        }
    }

    fn describe_location(&self, symbols: &SymbolLookup<'_>) -> String {
        self.instruction
            .as_ref()
            .map_or_else(|| "an unknown place".to_owned(), |found| describe_address(found.linear, symbols))
    }
}

/// Appends the deliveries of the exceptions of a chain.
fn describe_deliveries(
    text: &mut String,
    chain: &ExceptionChain,
    end: &End,
    no_gates: Option<&str>,
    symbols: &SymbolLookup<'_>,
) {
    if let (End::Exception { .. }, Some(last)) = (end, chain.links.last()) {
        if chain.links.len() > 1 {
            let _ = write!(text, " That became {}: {}.", last.fault.name(), last.fault.reason);
        }
        text.push_str(" Ring 3 has no handler of its own, so the run ended there.");
        return;
    }
    let found = |link: &ChainLink| link.delivery.gate.is_some();
    if let (true, ChainEnd::TripleFault, [first, _, ..]) =
        (no_gates.is_some() && chain.links.iter().all(found), &chain.end, chain.links.as_slice())
        && let DeliveryOutcome::Failed(failure) = &first.delivery.outcome
    {
        let then: Vec<String> = chain.links.iter().skip(1).map(|link| link.fault.mnemonic()).collect();
        let _ = write!(
            text,
            " {} could not be delivered: {}, as are all others{}. So it became {}, which could \
             not be delivered either. That is a triple fault, and the CPU shut down.",
            subject(&first.fault),
            failure.reason,
            no_gates.unwrap_or_default(),
            then.join(", then ")
        );
        return;
    }
    for (number, link) in chain.links.iter().enumerate() {
        let DeliveryOutcome::Failed(failure) = &link.delivery.outcome else { continue };
        let again = if number == 0 { "" } else { " either" };
        let name = subject(&link.fault);
        let _ = write!(text, " {name} could not be delivered{again}: {}", failure.reason);
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
        ChainEnd::RecursiveFault(handler) => {
            let _ = write!(
                text,
                " Its handler is at {}, which faults in the same way: so each exception raised the next, until the stack was used up.",
                describe_address(handler.linear, symbols)
            );
        }
        ChainEnd::Handler(handler) => {
            let _ = write!(
                text,
                " Its handler at {} was reached; what it did was not seen.",
                describe_address(handler.linear, symbols)
            );
        }
        ChainEnd::Unknown => {}
    }
}

/// Appends that the vector of an interrupt is also that of an exception, as IRQ 0 is with the vectors that a BIOS gives the 8259As.
pub(super) fn describe_shared_vector(text: &mut String, vector: u8) {
    if let Some((mnemonic, name)) = exception_name(vector).filter(|_| vector != NMI) {
        let _ = write!(text, " Vector {vector:#x} is also that of an exception, {mnemonic} ({name}).");
    }
}

/// Returns words with a capital letter at their beginning.
pub(super) fn capitalized(words: &str) -> String {
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Returns a word for the source of an interrupt in brackets; nothing if it is not known.
pub(super) fn in_brackets(source: Option<&str>) -> String {
    source.map_or_else(String::new, |source| format!(" ({source})"))
}

/// Returns the beginning of a sentence about an exception or interrupt.
fn subject(event: &Exception) -> String {
    if event.software || exception_name(event.vector).is_some() {
        event.mnemonic()
    } else {
        "The interrupt".to_owned()
    }
}

/// Returns a number of instructions as text.
pub(super) fn count_instructions(count: u64) -> String {
    if count == 1 { "1 instruction".to_owned() } else { format!("{count} instructions") }
}

/// Returns a quoted instruction of the trace and its address.
pub(super) fn describe_traced(traced: &TracedInstruction, symbols: &SymbolLookup<'_>) -> String {
    format!(
        "`{}` at {}",
        disassemble(&traced.bytes, traced.width, traced.linear),
        describe_address(traced.linear, symbols)
    )
}

fn describe_delivered(raised: &DeliveredException, symbols: &SymbolLookup<'_>) -> String {
    let instruction = disassemble(&raised.bytes, raised.width, raised.address);
    let by = match raised.gate {
        Some(IdtEntry::Vector { segment, offset, .. }) => {
            format!(", {segment:04x}:{offset:04x} by the vector table")
        }
        Some(IdtEntry::Gate { .. }) | None => String::new(),
    };
    format!(
        "{} (at {}{by}), which `{instruction}` at {} had raised: {}",
        raised.handled.mnemonic(),
        describe_address(raised.handler, symbols),
        describe_address(raised.address, symbols),
        raised.fault.reason
    )
}
