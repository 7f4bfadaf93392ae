//! What else there is to say: who made the state wrong, what could not be established, how it was all found out.

use std::fmt::Write as _;

use super::words::{Names, executed, instructions, place};
use super::{Autopsy, Note, Source};

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
                Note::Writer { what, by, ago, stack } => {
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
                Note::RootChanged { by, cr3 } => {
                    let _ = write!(
                        text,
                        " {} had just set CR3 to {cr3:#x}: these are other page tables than before.",
                        executed(by, names)
                    );
                }
                Note::CodeIn { part, jump } => {
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
                Note::StackIn(part) => {
                    let _ = write!(text, " The stack pointer lies in the {part}.");
                }
                Note::Diverged(_)
                | Note::Unrepeatable { .. }
                | Note::OutOfTime(_)
                | Note::Overflowed { .. }
                | Note::NoSteps
                | Note::Outside { .. }
                | Note::Together { .. }
                | Note::Confirmed
                | Note::Contradicted { .. }
                | Note::OtherEnd(_)
                | Note::Trouble(_) => {}
            }
        }
    }

    fn remark(&self, note: &Note, names: &Names<'_>) -> Option<String> {
        Some(match note {
            Note::Diverged(divergence) => format!(
                "run again, the guest did something else: {divergence}; so its end could not be stepped into"
            ),
            Note::Unrepeatable { what, at } => {
                format!("the guest reads {what} (at {}), so no two runs of it need be the same", place(*at, names))
            }
            Note::OutOfTime(budget) => format!("the examination took longer than {budget:?} and is not complete"),
            Note::Overflowed { recorded, seen } => {
                format!("the run made {seen} exits, of which {recorded} were recorded: too many to run it again")
            }
            Note::NoSteps => {
                "this host's KVM (kvm-pvm) cannot single-step 64-bit code in ring 3, so the instructions before the end are not known".to_owned()
            }
            Note::Outside { device } => format!(
                "what {device} did with the world outside cannot be had again, so the instructions before the end are not known"
            ),
            Note::Together { vcpu } => format!(
                "this is vCPU {vcpu}; several vCPUs ran at the same time, which cannot be had again, so the instructions before the end are not known"
            ),
            Note::Confirmed => "this host kept the registers of the shutdown, and they agree with the run that was repeated".to_owned(),
            Note::Contradicted { kept } => format!(
                "this host kept the registers of the shutdown, and they point at {}: the run that was repeated ended elsewhere",
                place(*kept, names)
            ),
            Note::OtherEnd(end) => format!("run again step by step, the guest came to another end: {end}"),
            Note::Trouble(error) => format!("not all could be examined: {error}"),
            Note::Writer { .. } | Note::RootChanged { .. } | Note::StackIn(_) | Note::CodeIn { .. } => return None,
        })
    }
}
