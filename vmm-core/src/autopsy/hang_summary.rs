//! Report text for a hang.

use std::fmt::Write as _;

use crate::Port;
use crate::devices::DeviceKind;

use super::Autopsy;
use super::hang::{HangKind, LoopAnalysis, PolledMemory};
use super::instruction_trace::DeliveredException;
use super::summary::{SymbolLookup, count_instructions, describe_address, disassemble, in_brackets};

impl Autopsy {
    pub(super) fn describe_hang(&self, text: &mut String, hang: &HangKind, symbols: &SymbolLookup<'_>) {
        let _ = match hang {
            HangKind::JumpToSelf => {
                write!(text, "{} jumps to itself, for ever.", self.describe_instruction(symbols))
            }
            HangKind::Loop(found) => {
                describe_loop(text, found, symbols);
                Ok(())
            }
            HangKind::ExceptionStorm { raised, count } => {
                describe_storm(text, raised, *count, symbols);
                Ok(())
            }
            HangKind::InterruptStorm { count, time, vector, source } => {
                write!(
                    text,
                    "The guest is in an interrupt storm: {count} interrupts in {time:?}, so that it gets nothing else done. The last is vector {vector:#x}{}. A handler has to make the source quiet before it returns. The guest stood at {}.",
                    in_brackets(source.as_deref()),
                    self.describe_instruction(symbols)
                )
            }
            HangKind::Halted => {
                write!(
                    text,
                    "The guest waits for an interrupt in HLT, before {}.",
                    self.describe_resumption(symbols)
                )
            }
            HangKind::Suspended => write!(
                text,
                "The guest had suspended the machine before {}, until an alarm of its clock that was still to come.",
                self.describe_instruction(symbols)
            ),
            HangKind::NonTerminatingInstruction(Some(fault)) => write!(
                text,
                "The guest hangs at {}, without an exit and without a step: it must raise {} ({}), and KVM lets the CPU try again \
                 for ever.",
                self.describe_instruction(symbols),
                fault.name(),
                fault.reason
            ),
            HangKind::NonTerminatingInstruction(None) => write!(
                text,
                "{} never returns: this host's KVM keeps the vCPU in this one instruction.",
                self.describe_instruction(symbols)
            ),
            HangKind::ExecutingZeros { real } => {
                let hint = if *real {
                    " In real mode that is mostly an exception whose vector is 0000:0000."
                } else {
                    ""
                };
                write!(
                    text,
                    "The CPU has left the guest's code and runs through zeros at {}, which it takes for instructions.{hint}",
                    describe_address(self.instruction.as_ref().map_or(0, |found| found.linear), symbols)
                )
            }
            HangKind::NoPattern { distinct: None } => write!(
                text,
                "The guest was still at work at {}. It may just need more time.",
                self.describe_instruction(symbols)
            ),
            HangKind::NoPattern { distinct: Some(distinct) } => write!(
                text,
                "The guest was still at work at {}: a sample shows {distinct} different instructions and no small loop. It may \
                 just need more time.",
                self.describe_instruction(symbols)
            ),
            HangKind::FinishesWithMoreTime(end) => write!(
                text,
                "The guest was still at work at {}, and would soon have come to its end: {end}. It needs a little more time.",
                self.describe_instruction(symbols)
            ),
        };
        self.describe_writers(text, symbols);
    }
}

fn describe_loop(text: &mut String, found: &LoopAnalysis, symbols: &SymbolLookup<'_>) {
    let (Some(first), Some(last)) = (found.body.first(), found.body.last()) else { return };
    let count = count_instructions(found.body.len() as u64);
    let range = format!(
        "{count} from {} to {}",
        describe_address(first.linear, symbols),
        describe_address(last.linear, symbols)
    );
    let ports = |list: &[u16]| {
        let shown: Vec<String> = list.iter().take(4).map(|port| format!("port {port:#x}")).collect();
        shown.join(", ")
    };
    let _ = if let Some(port) = found.unanswered_ports.first()
        && found.unanswered_ports == found.reads_ports
    {
        let _ = write!(
            text,
            "The guest polls {} in a loop ({range}). No device answers there, so it reads all ones.",
            ports(&found.reads_ports)
        );
        match DeviceKind::at_port(Port(*port)).map(DeviceKind::info) {
            Some(device) => {
                write!(text, " A machine with {} (`{}`) has that port.", device.title, device.name)
            }
            None => Ok(()),
        }
    } else if !found.reads_ports.is_empty() {
        write!(
            text,
            "The guest polls {} in a loop ({range}): it waits for a value that never comes.",
            ports(&found.reads_ports)
        )
    } else if let Some(call) = found.hypercall.and_then(|number| found.body.get(number)) {
        let call = disassemble(&call.bytes, call.width, call.linear);
        write!(
            text,
            "The guest calls the hypervisor in a loop, with `{call}` ({range}), and gets no answer that it likes."
        )
    } else if found.has_hlt {
        write!(text, "The guest halts again and again in a loop ({range}).")
    } else if !found.writes_ports.is_empty() {
        write!(
            text,
            "The guest writes to {} in a loop ({range}) that does not end.",
            ports(&found.writes_ports)
        )
    } else if let Some(polled) = &found.polled_memory {
        write!(text, "The guest is in a loop ({range}) that looks at {}.", describe_polled(polled, symbols))
    } else {
        write!(text, "The guest is in an endless loop ({range}).")
    };
}

/// Returns polled memory in words, such as `memory at 0x1000 <lock>, which holds 0x1 and does not change`.
pub(super) fn describe_polled(polled: &PolledMemory, symbols: &SymbolLookup<'_>) -> String {
    let PolledMemory { address, value, writer, .. } = *polled;
    let by = writer.map_or_else(String::new, |vcpu| format!(" (written by vCPU {vcpu})"));
    format!(
        "memory at {}, which holds {value:#x}{by} and does not change",
        describe_address(address, symbols)
    )
}

fn describe_storm(
    text: &mut String,
    raised: &DeliveredException,
    count: Option<u64>,
    symbols: &SymbolLookup<'_>,
) {
    let DeliveredException { fault, handled: delivered, handler, address: at, bytes, width, .. } = raised;
    let often = count.map(|count| format!(" ({count} times in a sample)")).unwrap_or_default();
    let becomes =
        if delivered == fault { String::new() } else { format!(", which becomes {}", delivered.name()) };
    let _ = write!(
        text,
        "An exception storm{often}: `{}` at {} raises {}{becomes} again and again: {}.",
        disassemble(bytes, *width, *at),
        describe_address(*at, symbols),
        fault.name(),
        fault.reason
    );
    let _ = if handler == at {
        write!(text, " Its handler begins with that very instruction, so it never gets any further.")
    } else {
        write!(
            text,
            " Its handler at {} comes back there without mending the cause.",
            describe_address(*handler, symbols)
        )
    };
}
