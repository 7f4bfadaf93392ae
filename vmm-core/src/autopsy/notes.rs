//! Report texts for notes: writers of faulty entries, facts that could not be established, origin of the state.

use std::fmt::Write as _;

use super::summary::{SymbolLookup, count_instructions, describe_address, describe_traced};
use super::{Autopsy, AutopsyNote, StateSource};

impl Autopsy {
    /// Returns the notes that are not part of the summary, one sentence each.
    #[must_use]
    pub fn describe_notes(&self, symbols: &SymbolLookup<'_>) -> Vec<String> {
        self.notes.iter().filter_map(|note| self.describe_note(note, symbols)).collect()
    }

    /// Returns the origin of the guest's state as a line for the end of a report.
    #[must_use]
    pub fn describe_source(&self) -> String {
        match self.source {
            StateSource::Replay { exits, steps } => {
                let count = |number, of: &str| format!("{number} {of}{}", if number == 1 { "" } else { "s" });
                let (exits, steps) = (count(exits, "exit"), count(steps, "single step"));
                format!("found by running the guest again: {exits} replayed, {steps}, {:.1?}", self.elapsed)
            }
            StateSource::FinalRegisters => {
                format!("found from the registers at the end, {:.1?}", self.elapsed)
            }
            StateSource::SecondRun => {
                format!(
                    "found by running the guest again on interrupt controllers in this process, {:.1?}",
                    self.elapsed
                )
            }
            StateSource::LastInterrupt { steps } => {
                let steps = format!("{steps} single step{}", if steps == 1 { "" } else { "s" });
                format!(
                    "found by running the guest again: {steps} from its last interrupt on, {:.1?}",
                    self.elapsed
                )
            }
            StateSource::ExceptionFrame => {
                format!("found from the frame that the CPU pushed, {:.1?}", self.elapsed)
            }
        }
    }

    /// Appends the instructions that caused the faulty state, where they were recorded.
    pub(super) fn describe_writers(&self, text: &mut String, symbols: &SymbolLookup<'_>) {
        for note in &self.notes {
            match note {
                AutopsyNote::LastWriter { what, by, ago, stack } => {
                    let who = describe_traced(by, symbols);
                    let before = count_instructions(*ago);
                    if *stack && *what == "page table entry" {
                        let _ = write!(
                            text,
                            " The stack has grown into the page tables: {who} overwrote this entry {before} before."
                        );
                    } else {
                        let _ = write!(text, " The {what} was written by {who}, {before} before.");
                    }
                }
                AutopsyNote::Cr3Changed { by, cr3 } => {
                    let _ = write!(
                        text,
                        " {} had just set CR3 to {cr3:#x}: these are other page tables than before.",
                        describe_traced(by, symbols)
                    );
                }
                AutopsyNote::RipInTable { part, jump } => {
                    let _ = write!(text, " This is not code but the {part}.");
                    if let Some((by, ago)) = jump {
                        let before = count_instructions(*ago);
                        let _ = write!(
                            text,
                            " The last jump was {}, {before} before: from there the CPU ran on to here.",
                            describe_traced(by, symbols)
                        );
                    }
                }
                AutopsyNote::RspInTable(part) => {
                    let _ = write!(text, " The stack pointer lies in the {part}.");
                }
                AutopsyNote::Diverged(_)
                | AutopsyNote::NonDeterministic { .. }
                | AutopsyNote::OutOfTime(_)
                | AutopsyNote::RecordingIncomplete { .. }
                | AutopsyNote::SingleStepUnsupported
                | AutopsyNote::InterruptsNotRepeated
                | AutopsyNote::ExternalSideEffect { .. }
                | AutopsyNote::MultipleVcpus { .. }
                | AutopsyNote::RegistersConfirmed
                | AutopsyNote::RegistersDiffer { .. }
                | AutopsyNote::InterruptInService { .. }
                | AutopsyNote::LastInterrupt { .. }
                | AutopsyNote::DifferentEnd(_)
                | AutopsyNote::HostError(_) => {}
            }
        }
    }

    fn describe_note(&self, note: &AutopsyNote, symbols: &SymbolLookup<'_>) -> Option<String> {
        Some(match note {
            AutopsyNote::Diverged(divergence) => format!(
                "run again, the guest did something else: {divergence}; so its end could not be stepped into"
            ),
            AutopsyNote::NonDeterministic { what, at } => {
                format!("the guest reads {what} (at {}), so no two runs of it need be the same", describe_address(*at, symbols))
            }
            AutopsyNote::OutOfTime(budget) => format!("the examination took longer than {budget:?} and is not complete"),
            AutopsyNote::RecordingIncomplete { recorded, seen } => {
                format!("the run made {seen} exits, of which {recorded} were recorded: too many to run it again")
            }
            AutopsyNote::SingleStepUnsupported => {
                "this host's KVM (kvm-pvm) cannot single-step 64-bit code in ring 3, so the instructions before the end are not known".to_owned()
            }
            AutopsyNote::InterruptsNotRepeated => {
                "interrupts came, which are not repeated, so the instructions before the end are not known".to_owned()
            }
            AutopsyNote::ExternalSideEffect { device } => format!(
                "what {device} did with the world outside cannot be had again, so the instructions before the end are not known"
            ),
            AutopsyNote::MultipleVcpus { vcpu } => format!(
                "this is vCPU {vcpu}; several vCPUs ran at the same time, which cannot be had again, so the instructions before the end are not known"
            ),
            AutopsyNote::RegistersConfirmed => "this host kept the registers of the shutdown, and they agree with the run that was repeated".to_owned(),
            AutopsyNote::RegistersDiffer { host_rip } => format!(
                "this host kept the registers of the shutdown, and they point at {}: the run that was repeated ended elsewhere",
                describe_address(*host_rip, symbols)
            ),
            AutopsyNote::DifferentEnd(end) => format!("run again step by step, the guest came to another end: {end}"),
            AutopsyNote::HostError(error) => format!("not all could be examined: {error}"),
            AutopsyNote::LastWriter { .. } | AutopsyNote::InterruptInService { .. } | AutopsyNote::LastInterrupt { .. } | AutopsyNote::Cr3Changed { .. } | AutopsyNote::RspInTable(_) | AutopsyNote::RipInTable { .. } => return None,
        })
    }
}
