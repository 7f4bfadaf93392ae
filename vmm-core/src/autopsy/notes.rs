//! What else there is to say: who made the state wrong, what could not be established, how it was all found out.

use std::fmt::Write as _;

use super::summary::{Names, executed, instructions, place};
use super::{Autopsy, AutopsyNote, Source};

impl Autopsy {
    /// What else there is to say, one sentence each.
    #[must_use]
    pub fn remarks(&self, names: &Names<'_>) -> Vec<String> {
        self.notes.iter().filter_map(|note| self.remark(note, names)).collect()
    }

    /// How the state was obtained, as a sentence for the end of a report.
    #[must_use]
    pub fn provenance(&self) -> String {
        match self.source {
            Source::Replay { exits, steps } => {
                let count = |number, of: &str| format!("{number} {of}{}", if number == 1 { "" } else { "s" });
                let (exits, steps) = (count(exits, "exit"), count(steps, "single step"));
                format!("found by running the guest again: {exits} replayed, {steps}, {:.1?}", self.elapsed)
            }
            Source::Registers => format!("found from the registers at the end, {:.1?}", self.elapsed),
            Source::Frame => format!("found from the frame that the CPU pushed, {:.1?}", self.elapsed),
        }
    }

    /// What made the state wrong, where that was seen.
    pub(super) fn accuse(&self, text: &mut String, names: &Names<'_>) {
        for note in &self.notes {
            match note {
                AutopsyNote::Writer { what, by, ago, stack } => {
                    let who = executed(by, names);
                    let before = instructions(*ago);
                    if *stack && *what == "page table entry" {
                        let _ = write!(
                            text,
                            " The stack has grown into the page tables: {who} overwrote this entry {before} before."
                        );
                    } else {
                        let _ = write!(text, " The {what} was written by {who}, {before} before.");
                    }
                }
                AutopsyNote::RootChanged { by, cr3 } => {
                    let _ = write!(
                        text,
                        " {} had just set CR3 to {cr3:#x}: these are other page tables than before.",
                        executed(by, names)
                    );
                }
                AutopsyNote::RipInTable { part, jump } => {
                    let _ = write!(text, " This is not code but the {part}.");
                    if let Some((by, ago)) = jump {
                        let before = instructions(*ago);
                        let _ = write!(
                            text,
                            " The last jump was {}, {before} before: from there the CPU ran on to here.",
                            executed(by, names)
                        );
                    }
                }
                AutopsyNote::RspInTable(part) => {
                    let _ = write!(text, " The stack pointer lies in the {part}.");
                }
                AutopsyNote::Diverged(_)
                | AutopsyNote::Unrepeatable { .. }
                | AutopsyNote::OutOfTime(_)
                | AutopsyNote::Overflowed { .. }
                | AutopsyNote::NoSteps
                | AutopsyNote::ExternalSideEffect { .. }
                | AutopsyNote::MultipleVcpus { .. }
                | AutopsyNote::Confirmed
                | AutopsyNote::Contradicted { .. }
                | AutopsyNote::OtherEnd(_)
                | AutopsyNote::HostError(_) => {}
            }
        }
    }

    fn remark(&self, note: &AutopsyNote, names: &Names<'_>) -> Option<String> {
        Some(match note {
            AutopsyNote::Diverged(divergence) => format!(
                "run again, the guest did something else: {divergence}; so its end could not be stepped into"
            ),
            AutopsyNote::Unrepeatable { what, at } => {
                format!("the guest reads {what} (at {}), so no two runs of it need be the same", place(*at, names))
            }
            AutopsyNote::OutOfTime(budget) => format!("the examination took longer than {budget:?} and is not complete"),
            AutopsyNote::Overflowed { recorded, seen } => {
                format!("the run made {seen} exits, of which {recorded} were recorded: too many to run it again")
            }
            AutopsyNote::NoSteps => {
                "this host's KVM (kvm-pvm) cannot single-step 64-bit code in ring 3, so the instructions before the end are not known".to_owned()
            }
            AutopsyNote::ExternalSideEffect { device } => format!(
                "what {device} did with the world outside cannot be had again, so the instructions before the end are not known"
            ),
            AutopsyNote::MultipleVcpus { vcpu } => format!(
                "this is vCPU {vcpu}; several vCPUs ran at the same time, which cannot be had again, so the instructions before the end are not known"
            ),
            AutopsyNote::Confirmed => "this host kept the registers of the shutdown, and they agree with the run that was repeated".to_owned(),
            AutopsyNote::Contradicted { kept } => format!(
                "this host kept the registers of the shutdown, and they point at {}: the run that was repeated ended elsewhere",
                place(*kept, names)
            ),
            AutopsyNote::OtherEnd(end) => format!("run again step by step, the guest came to another end: {end}"),
            AutopsyNote::HostError(error) => format!("not all could be examined: {error}"),
            AutopsyNote::Writer { .. } | AutopsyNote::RootChanged { .. } | AutopsyNote::RspInTable(_) | AutopsyNote::RipInTable { .. } => return None,
        })
    }
}
