//! The end of a run, reached once more: replay, approach, and single steps into it.

use std::time::Duration;

use crate::cpu::cpu_state::OperandWidth;
use crate::devices::virtio::unrepeatable;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::record::Recording;
use crate::record::replay::{Replayed, Replayer};
use crate::spec::Interrupts;

use super::bisect::{self, Bisection};
use super::emulation_failure;
use super::hang;
use super::instruction_trace::{InstructionTrace, MAX_INSTRUCTIONS, StepResult};
use super::interrupt_storm;
use super::{Autopsy, AutopsyNote, Cause, Source};
use crate::cpu::cpu_state::CpuState;

/// Steps that are tried before the rest of the run is narrowed.
const FIRST_STEPS: u64 = 4000;
/// Time for them.
const FIRST_TIME: Duration = Duration::from_millis(1500);

/// A run that was led to its end again.
struct Reexecution<'a> {
    replayer: Replayer<'a>,
    trail: InstructionTrace,
    before: CpuState,
}

impl Autopsy {
    /// A run that came to an end by itself.
    pub(super) fn of_end(
        &mut self,
        ended: &Machine,
        recording: &Recording,
        build: &dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<(), Error> {
        let found = CpuState::from_vcpu(ended.vcpu())?;
        let framed = self.frame(&found);
        // KVM keeps them on some hosts, and puts the vCPU into its reset state on others.
        let reset = found.regs.rip == 0xfff0 && found.sregs.cs.selector == 0xf000;
        let kept = (self.end != End::Shutdown || !reset).then_some(found);
        let alone = ended.processors.aps().is_empty();
        let steppable = alone
            && !(emulation_failure::interprets_all()
                && framed.as_ref().or(kept.as_ref()).is_some_and(in_user_mode));
        let outside = unrepeatable(&ended.spec().devices.virtio);
        let retraced = if steppable && outside.is_none() {
            self.retrace(recording, build, budget)?
        } else {
            self.notes.push(match outside {
                _ if !alone => AutopsyNote::MultipleVcpus { vcpu: ended.vcpu().id() },
                Some(device) => AutopsyNote::ExternalSideEffect { device },
                None => AutopsyNote::NoSteps,
            });
            None
        };
        match retraced {
            Some(Reexecution { replayer, mut trail, before }) => {
                if let End::InternalError { .. } = self.end {
                    trail.count_last_as_delivered(&before, found.linear_rip());
                }
                self.source =
                    Source::Replay { exits: recording.exits().saturating_sub(1), steps: trail.steps };
                let state = if let End::InternalError { .. } | End::FailEntry { .. } = self.end {
                    // The vCPU still stands where KVM gave up.
                    found
                } else if let (End::Exception { .. }, Some(framed)) = (&self.end, framed) {
                    // Some hosts step into the trap page before the run ends there.
                    framed
                } else {
                    before
                };
                trail.end_before(&state);
                self.compare(kept.as_ref(), &state);
                if let Some((what, at)) = trail.unrepeatable {
                    self.notes.push(AutopsyNote::Unrepeatable { what, at });
                }
                self.judge(replayer.machine(), &state, Some(&trail));
            }
            None => {
                if let Some(state) = framed {
                    self.source = Source::Frame;
                    self.judge(ended, &state, None);
                } else if let Some(state) = kept {
                    let state = self.at_halt(state);
                    self.judge(ended, &state, None);
                }
            }
        }
        Ok(())
    }

    /// The registers in ring 3, out of the frame on the trap page's stack.
    fn frame(&self, found: &CpuState) -> Option<CpuState> {
        let End::Exception { frame: Some(frame), .. } = &self.end else { return None };
        let mut state = *found;
        (state.regs.rip, state.regs.rsp, state.regs.rflags) = (frame.rip, frame.rsp, frame.rflags);
        let width = state.width();
        for segment in [&mut state.sregs.cs, &mut state.sregs.ss] {
            segment.dpl = 3;
        }
        debug_assert_eq!(width, state.width());
        Some(state)
    }

    /// After HLT the instruction pointer is behind it.
    const fn at_halt(&self, mut state: CpuState) -> CpuState {
        if let End::Halt { .. } = self.end {
            state.regs.rip = state.regs.rip.wrapping_sub(1);
        }
        state
    }

    /// Leads a new machine to the end of the run.
    fn retrace<'a>(
        &mut self,
        recording: &'a Recording,
        build: &'a dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<Option<Reexecution<'a>>, Error> {
        if recording.overflowed() {
            self.notes.push(AutopsyNote::Overflowed { recorded: recording.exits(), seen: recording.seen() });
            return Ok(None);
        }
        let mut replayer = Replayer::new(build, recording)?;
        replayer.set_budget(budget)?;
        let last = recording.exits().saturating_sub(1);
        // Some exits earlier first: between the last one and the end there may be fewer instructions than are shown.
        let early = last.saturating_sub(MAX_INSTRUCTIONS as u64);
        let mut attempts = vec![(early, false), (last, false), (last, true)];
        attempts.dedup();
        for (exits, near) in attempts {
            if replayer.has_moved() {
                replayer.restart()?;
            }
            match replayer.replay_to(exits)? {
                Replayed::Served => {}
                Replayed::OutOfTime => return Ok(self.out_of_time(&replayer, budget)),
                Replayed::Ended(_) | Replayed::Diverged | Replayed::Debug(_) | Replayed::Interrupted => {
                    return Ok(self.diverged(&replayer));
                }
            }
            if near {
                match bisect::approach(&mut replayer)? {
                    Bisection::Near => {}
                    Bisection::Diverged => return Ok(self.diverged(&replayer)),
                    Bisection::OutOfTime => return Ok(self.out_of_time(&replayer, budget)),
                }
            }
            let mut trail = InstructionTrace::default();
            let (steps, time) = if near { (u64::MAX, budget) } else { (FIRST_STEPS, FIRST_TIME) };
            match trail.follow(&mut replayer, steps, time)? {
                StepResult::Ended { end, before } if end.name() == self.end.name() => {
                    return Ok(Some(Reexecution { replayer, trail, before: *before }));
                }
                StepResult::Enough => {}
                StepResult::OutOfTime => return Ok(self.out_of_time(&replayer, budget)),
                StepResult::Ended { end, .. } => {
                    self.notes.push(AutopsyNote::OtherEnd(end));
                    return Ok(None);
                }
                StepResult::Diverged | StepResult::Stuck(_) | StepResult::Circle(_) => {
                    return Ok(self.diverged(&replayer));
                }
            }
        }
        Ok(self.out_of_time(&replayer, budget))
    }

    /// Shows how far it came at least.
    fn out_of_time<T>(&mut self, replayer: &Replayer<'_>, budget: Duration) -> Option<T> {
        self.notes.push(AutopsyNote::OutOfTime(budget));
        if let Ok(state) = CpuState::from_vcpu(replayer.machine().vcpu()) {
            self.seen_last(replayer.machine(), &state);
        }
        None
    }

    fn diverged<T>(&mut self, replayer: &Replayer<'_>) -> Option<T> {
        match replayer.divergence() {
            Some(divergence) => self.notes.push(AutopsyNote::Diverged(divergence)),
            None => {
                self.notes.push(AutopsyNote::HostError(
                    "the guest went another way when it was run again".to_owned(),
                ));
            }
        }
        None
    }

    /// Holds what was found against what the host kept.
    fn compare(&mut self, kept: Option<&CpuState>, state: &CpuState) {
        if let (End::Shutdown, Some(kept)) = (&self.end, kept) {
            self.notes.push(if kept.linear_rip() == state.linear_rip() {
                AutopsyNote::Confirmed
            } else {
                AutopsyNote::Contradicted { kept: kept.linear_rip() }
            });
        }
    }

    /// A run that a limit ended.
    pub(super) fn of_hang(
        &mut self,
        ended: &Machine,
        build: &dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<(), Error> {
        let state = CpuState::from_vcpu(ended.vcpu())?;
        if ended.board.spec.interrupts != Interrupts::None {
            self.judge(ended, &state, None);
            self.cause = Cause::Hang(Box::new(interrupt_storm::or_at_rest(ended, &self.end, &state)));
            return Ok(());
        }
        let outside = unrepeatable(&ended.spec().devices.virtio)
            .map(|device| AutopsyNote::ExternalSideEffect { device });
        let unsteppable =
            (emulation_failure::interprets_all() && in_user_mode(&state)).then_some(AutopsyNote::NoSteps);
        if let Some(note) = outside.or(unsteppable) {
            self.notes.push(note);
            self.judge(ended, &state, None);
            self.cause = Cause::Hang(Box::new(hang::at_rest(ended, &state)));
            return Ok(());
        }
        let (found, trail) = hang::sample(ended, build, budget)?;
        self.judge(ended, &state, Some(&trail));
        self.cause = Cause::Hang(Box::new(found));
        Ok(())
    }
}

/// 64-bit code in ring 3: the only one that runs natively where KVM interprets the rest.
fn in_user_mode(registers: &CpuState) -> bool {
    registers.cpl() == 3 && registers.width() == OperandWidth::Bits64
}
