//! Re-execution of the end of a run: replay, bisection, and single steps into the end.

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
use super::hang;
use super::instruction_trace::{InstructionTrace, MAX_TRACED_INSTRUCTIONS, StepResult};
use super::interrupt_storm;
use super::{Autopsy, AutopsyNote, Cause, StateSource};
use crate::cpu::cpu_state::CpuState;
use crate::machine::host::is_pvm;

/// Single steps that are tried before the bisection.
const INITIAL_STEPS: u64 = 4000;
/// Time limit of these steps.
const INITIAL_STEP_TIMEOUT: Duration = Duration::from_millis(1500);

/// Replay that reached the end of its run.
struct Reexecution<'a> {
    replayer: Replayer<'a>,
    trace: InstructionTrace,
    last_state: CpuState,
}

impl Autopsy {
    /// Examines a run that ended by itself; `interrupted` if interrupts came.
    pub(super) fn examine_end(
        &mut self,
        ended: &Machine,
        recording: &Recording,
        interrupted: bool,
        build: &dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<(), Error> {
        let registers = CpuState::from_vcpu(ended.vcpu())?;
        let ring3_state = self.ring3_state(&registers);
        // Some hosts keep the registers of a shutdown, others reset the vCPU.
        let host_registers = (self.end != End::Shutdown || !registers.is_reset()).then_some(registers);
        let single_vcpu = ended.processors.aps().is_empty();
        let can_step = single_vcpu
            && !(is_pvm() && ring3_state.as_ref().or(host_registers.as_ref()).is_some_and(in_user_mode));
        let external_device = unrepeatable(&ended.spec().devices.virtio);
        let reexecuted = if can_step && external_device.is_none() && !interrupted {
            self.reexecute(recording, build, budget)?
        } else {
            self.notes.push(match external_device {
                _ if !single_vcpu => AutopsyNote::MultipleVcpus { vcpu: ended.vcpu().id() },
                Some(device) => AutopsyNote::ExternalSideEffect { device },
                None if interrupted => AutopsyNote::InterruptsNotRepeated,
                None => AutopsyNote::SingleStepUnsupported,
            });
            None
        };
        match reexecuted {
            Some(Reexecution { replayer, mut trace, last_state }) => {
                if let End::InternalError { .. } = self.end {
                    trace.complete_unfinished_step(&last_state, registers.linear_rip());
                }
                self.source =
                    StateSource::Replay { exits: recording.exits().saturating_sub(1), steps: trace.steps };
                let state = if let End::InternalError { .. } | End::FailEntry { .. } = self.end {
                    // The vCPU is still at the instruction that failed.
                    registers
                } else if let (End::Exception { .. }, Some(ring3_state)) = (&self.end, ring3_state) {
                    // Some hosts step into the trap page before the run ends there.
                    ring3_state
                } else {
                    last_state
                };
                trace.remove_final_instruction(&state);
                self.compare_registers(host_registers.as_ref(), &state);
                if let Some((what, at)) = trace.nondeterministic {
                    self.notes.push(AutopsyNote::NonDeterministic { what, at });
                }
                self.diagnose(replayer.machine(), &state, Some(&trace));
            }
            None => {
                if let Some(state) = ring3_state {
                    self.source = StateSource::ExceptionFrame;
                    self.diagnose(ended, &state, None);
                } else if let Some(state) = host_registers {
                    let state = if let End::Halt { .. } = self.end { before_hlt(state) } else { state };
                    self.diagnose(ended, &state, None);
                }
            }
        }
        Ok(())
    }

    /// Registers in ring 3, from the exception frame on the stack of the trap page.
    fn ring3_state(&self, registers: &CpuState) -> Option<CpuState> {
        let End::Exception { frame: Some(frame), .. } = &self.end else { return None };
        let mut state = *registers;
        (state.regs.rip, state.regs.rsp, state.regs.rflags) = (frame.rip, frame.rsp, frame.rflags);
        let width = state.width();
        for segment in [&mut state.sregs.cs, &mut state.sregs.ss] {
            segment.dpl = 3;
        }
        debug_assert_eq!(width, state.width());
        Some(state)
    }

    /// Replays the run on a new machine and single-steps into its end. `None` if the end was not reached.
    fn reexecute<'a>(
        &mut self,
        recording: &'a Recording,
        build: &'a dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<Option<Reexecution<'a>>, Error> {
        if recording.overflowed() {
            self.notes.push(AutopsyNote::RecordingIncomplete {
                recorded: recording.exits(),
                seen: recording.seen(),
            });
            return Ok(None);
        }
        let mut replayer = Replayer::new(build, recording)?;
        replayer.set_budget(budget)?;
        let last = recording.exits().saturating_sub(1);
        // The first attempt starts some exits earlier: after the last one there may be fewer instructions than a trace has.
        let early = last.saturating_sub(MAX_TRACED_INSTRUCTIONS as u64);
        let mut attempts = vec![(early, false), (last, false), (last, true)];
        attempts.dedup();
        for (exits, near) in attempts {
            if replayer.has_moved() {
                replayer = replayer.restart()?;
            }
            match replayer.replay_to(exits)? {
                Replayed::Served => {}
                Replayed::OutOfTime => return Ok(self.note_out_of_time(&replayer, budget)),
                Replayed::Ended(_) | Replayed::Diverged | Replayed::Debug(_) | Replayed::Interrupted => {
                    return Ok(self.note_divergence(&replayer));
                }
            }
            if near {
                let bisection;
                (replayer, bisection) = bisect::run_near_end(replayer)?;
                match bisection {
                    Bisection::Near => {}
                    Bisection::Diverged => return Ok(self.note_divergence(&replayer)),
                    Bisection::OutOfTime => return Ok(self.note_out_of_time(&replayer, budget)),
                }
            }
            let mut trace = InstructionTrace::default();
            let (steps, time) = if near { (u64::MAX, budget) } else { (INITIAL_STEPS, INITIAL_STEP_TIMEOUT) };
            match trace.record(&mut replayer, steps, time)? {
                StepResult::Ended { end, last_state } if end.name() == self.end.name() => {
                    return Ok(Some(Reexecution { replayer, trace, last_state: *last_state }));
                }
                StepResult::StepLimit => {}
                StepResult::OutOfTime => return Ok(self.note_out_of_time(&replayer, budget)),
                StepResult::Ended { end, .. } => {
                    self.notes.push(AutopsyNote::DifferentEnd(end));
                    return Ok(None);
                }
                StepResult::Diverged | StepResult::Stuck(_) | StepResult::RecursiveFault(_) => {
                    return Ok(self.note_divergence(&replayer));
                }
            }
        }
        Ok(self.note_out_of_time(&replayer, budget))
    }

    /// Notes that the time is used up and describes the state reached.
    fn note_out_of_time<T>(&mut self, replayer: &Replayer<'_>, budget: Duration) -> Option<T> {
        self.notes.push(AutopsyNote::OutOfTime(budget));
        if let Ok(state) = CpuState::from_vcpu(replayer.machine().vcpu()) {
            self.describe_last_known(replayer.machine(), &state);
        }
        None
    }

    fn note_divergence<T>(&mut self, replayer: &Replayer<'_>) -> Option<T> {
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

    /// Compares the state of the replay with the registers that the host kept.
    pub(super) fn compare_registers(&mut self, host_registers: Option<&CpuState>, state: &CpuState) {
        if let (End::Shutdown, Some(host_registers)) = (&self.end, host_registers) {
            self.notes.push(if host_registers.linear_rip() == state.linear_rip() {
                AutopsyNote::RegistersConfirmed
            } else {
                AutopsyNote::RegistersDiffer { host_rip: host_registers.linear_rip() }
            });
        }
    }

    /// Examines a run that a limit ended.
    pub(super) fn examine_hang(
        &mut self,
        ended: &Machine,
        build: &dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<(), Error> {
        let state = CpuState::from_vcpu(ended.vcpu())?;
        if ended.board.spec.interrupts != Interrupts::None {
            self.diagnose(ended, &state, None);
            let hang = interrupt_storm::classify(ended, build, &self.end, &state)?;
            self.cause = Cause::Hang(Box::new(hang));
            return Ok(());
        }
        let external_device = unrepeatable(&ended.spec().devices.virtio)
            .map(|device| AutopsyNote::ExternalSideEffect { device });
        let no_single_step = (is_pvm() && in_user_mode(&state)).then_some(AutopsyNote::SingleStepUnsupported);
        if let Some(note) = external_device.or(no_single_step) {
            self.notes.push(note);
            self.diagnose(ended, &state, None);
            self.cause = Cause::Hang(Box::new(hang::classify_instruction(ended, &state)));
            return Ok(());
        }
        let (hang, trace) = hang::sample(&ended.checkpoint()?, 0, build, budget)?;
        self.diagnose(ended, &state, Some(&trace));
        self.cause = Cause::Hang(Box::new(hang));
        Ok(())
    }
}

/// Moves RIP back to the HLT that a vCPU stands behind.
pub(super) const fn before_hlt(mut state: CpuState) -> CpuState {
    state.regs.rip = state.regs.rip.wrapping_sub(1);
    state
}

/// Returns true for 64-bit code in ring 3, the only code that kvm-pvm does not emulate.
pub(super) fn in_user_mode(registers: &CpuState) -> bool {
    registers.cpl() == 3 && registers.width() == OperandWidth::Bits64
}
