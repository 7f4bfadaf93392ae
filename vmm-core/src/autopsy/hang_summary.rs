//! A guest that does not end, in words.

use std::fmt::Write as _;

use super::Autopsy;
use super::hang::{Hang, Loop};
use super::instruction_trace::DeliveredException;
use super::summary::{Names, code, instructions, place};

impl Autopsy {
    pub(super) fn hang(&self, text: &mut String, hang: &Hang, names: &Names<'_>) {
        let _ = match hang {
            Hang::JumpToSelf => write!(text, "{} jumps to itself, for ever.", self.here(names)),
            Hang::Loop(found) => {
                looping(text, found, names);
                Ok(())
            }
            Hang::ExceptionStorm { raised, count } => {
                storm(text, raised, *count, names);
                Ok(())
            }
            Hang::Interrupts { count, time, vector } => {
                write!(
                    text,
                    "The guest is in an interrupt storm: {count} interrupts in {time:?}, so that it gets nothing else done. The last is vector {vector:#x}. A handler has to make the source quiet before it returns. The guest stood at {}.",
                    self.here(names)
                )
            }
            Hang::Asleep => write!(
                text,
                "The guest sleeps in HLT before {}, and the interrupt that it waits for does not come.",
                self.here(names)
            ),
            Hang::Suspended => write!(
                text,
                "The guest had suspended the machine before {}, until an alarm of its clock that was still to come.",
                self.here(names)
            ),
            Hang::NonTerminatingInstruction(Some(fault)) => write!(
                text,
                "The guest hangs at {}, without an exit and without a step: it must raise {} ({}), and KVM lets the CPU try again \
                 for ever.",
                self.here(names),
                fault.name(),
                fault.why
            ),
            Hang::NonTerminatingInstruction(None) => write!(
                text,
                "{} never returns: this host's KVM keeps the vCPU in this one instruction.",
                self.here(names)
            ),
            Hang::ExecutingZeros { real } => {
                let hint = if *real {
                    " In real mode that is mostly an exception whose vector is 0000:0000."
                } else {
                    ""
                };
                write!(
                    text,
                    "The CPU has left the guest's code and runs through zeros at {}, which it takes for instructions.{hint}",
                    place(self.instruction.as_ref().map_or(0, |found| found.linear), names)
                )
            }
            Hang::NoPattern { distinct } => write!(
                text,
                "The guest was still at work at {}: a sample shows {distinct} different instructions and no small loop. It may \
                 just need more time.",
                self.here(names)
            ),
            Hang::FinishesWithMoreTime(end) => write!(
                text,
                "The guest was still at work at {}, and would soon have come to its end: {end}. It needs a little more time.",
                self.here(names)
            ),
        };
        self.accuse(text, names);
    }
}

fn looping(text: &mut String, found: &Loop, names: &Names<'_>) {
    let (Some(first), Some(last)) = (found.body.first(), found.body.last()) else { return };
    let count = instructions(found.body.len() as u64);
    let range = format!("{count} from {} to {}", place(first.linear, names), place(last.linear, names));
    let ports = |list: &[u16]| {
        let shown: Vec<String> = list.iter().take(4).map(|port| format!("port {port:#x}")).collect();
        shown.join(", ")
    };
    let _ = if !found.reads_ports.is_empty() {
        write!(
            text,
            "The guest polls {} in a loop ({range}): it waits for a value that never comes.",
            ports(&found.reads_ports)
        )
    } else if let Some(call) = found.calls.and_then(|number| found.body.get(number)) {
        let call = code(&call.bytes, call.width, call.linear);
        write!(
            text,
            "The guest calls the hypervisor in a loop, with `{call}` ({range}), and gets no answer that it likes."
        )
    } else if found.halts {
        write!(text, "The guest halts again and again in a loop ({range}).")
    } else if !found.writes_ports.is_empty() {
        write!(
            text,
            "The guest writes to {} in a loop ({range}) that does not end.",
            ports(&found.writes_ports)
        )
    } else if let Some((at, value)) = found.watches {
        write!(
            text,
            "The guest is in a loop ({range}) that looks at memory at {}, which holds {value:#x} and does not change.",
            place(at, names)
        )
    } else {
        write!(text, "The guest is in an endless loop ({range}).")
    };
}

fn storm(text: &mut String, raised: &DeliveredException, count: Option<u64>, names: &Names<'_>) {
    let DeliveredException { fault, delivered, handler, at, bytes, width, .. } = raised;
    let often = count.map(|count| format!(" ({count} times in a sample)")).unwrap_or_default();
    let becomes =
        if delivered == fault { String::new() } else { format!(", which becomes {}", delivered.name()) };
    let _ = write!(
        text,
        "An exception storm{often}: `{}` at {} raises {}{becomes} again and again: {}.",
        code(bytes, *width, *at),
        place(*at, names),
        fault.name(),
        fault.why
    );
    let _ = if handler == at {
        write!(text, " Its handler begins with that very instruction, so it never gets any further.")
    } else {
        write!(text, " Its handler at {} comes back there without mending the cause.", place(*handler, names))
    };
}
