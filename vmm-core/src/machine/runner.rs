//! Builder for a run of a machine: [`Machine::runner`] prepares the run, and [`Runner::run`] starts it.

use std::fmt;
use std::time::Instant;

use crate::devices::console::Output;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::observer::Observer;
use crate::machine::run_loop::{RunControl, RunOutcome};
use crate::machine::stop_point::StopPoint;
use crate::spec::LimitSpec;

/// Stop point of a run that goes on to its own end: the default of a [`Runner`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToEnd;

/// Run of a machine that is prepared and not started: its observers, limits and stop point. `S` is [`ToEnd`], or [`StopPoint`]
/// after [`Runner::until`].
///
/// ```no_run
/// # use vmm_core::machine::{Machine, error::Error, observer::Observer, stop_point::StopPoint};
/// # fn example(machine: &mut Machine, observer: &mut dyn Observer) -> Result<(), Error> {
/// // To a point of the run, then to its end.
/// let ended_early = machine.runner().until(StopPoint::Exits(100)).run()?;
/// let outcome = machine.runner().observe(&mut [observer]).run()?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing runs before `run` is called"]
pub struct Runner<'m, 'a, 'o, S = ToEnd> {
    machine: &'m mut Machine,
    observers: &'a mut [&'o mut dyn Observer],
    limits: LimitSpec,
    step: bool,
    stop: S,
}

impl Machine {
    /// Prepares a run to the end, without observers, within the limits of the machine's description.
    pub fn runner<'a, 'o>(&mut self) -> Runner<'_, 'a, 'o> {
        let limits = self.board.spec.limits;
        Runner { machine: self, observers: &mut [], limits, step: false, stop: ToEnd }
    }
}

impl<'a, 'o, S> Runner<'_, 'a, 'o, S> {
    /// Shows each exit of the run to `observers`, before and after it is served.
    pub fn observe(self, observers: &'a mut [&'o mut dyn Observer]) -> Self {
        Self { observers, ..self }
    }

    /// Replaces the limits of the machine's description for this run.
    pub fn limits(self, limits: LimitSpec) -> Self {
        Self { limits, ..self }
    }

    /// Runs one instruction at a time if `step` is true: observers see each as an
    /// [`Exit::Debug`](kvm_sys_wrap::Exit::Debug). Where the host cannot step
    /// ([`can_step`](crate::machine::stepper::can_step)) the guest runs freely to its next exit.
    pub fn step(self, step: bool) -> Self {
        Self { step, ..self }
    }
}

impl<'m, 'a, 'o> Runner<'m, 'a, 'o> {
    /// Stops the run at a point, such as an address. On a machine with interrupts an address is not a point that can be
    /// stopped at here: `debugger::run_until` does that.
    pub fn until(self, point: StopPoint) -> Runner<'m, 'a, 'o, StopPoint> {
        let Self { machine, observers, limits, step, stop: ToEnd } = self;
        Runner { machine, observers, limits, step, stop: point }
    }

    /// Runs the guest until it ends, crashes, or is stopped by a limit.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run(self) -> Result<RunOutcome, Error> {
        let Self { machine, observers, limits, step, stop: ToEnd } = self;
        let mut control = RunControl { observers, ..RunControl::with_limits(limits)? };
        let started = Instant::now();
        let end = if step { machine.step_to_end(&mut control) } else { machine.run_to_end(&mut control) }?;
        let elapsed = started.elapsed();
        finish_output(&machine.board.output, Some(&end))?;
        Ok(RunOutcome { end, exits: machine.exits(), elapsed })
    }
}

impl Runner<'_, '_, '_, StopPoint> {
    /// Runs the guest up to the stop point; `Some` if the run ended before.
    ///
    /// # Errors
    /// As [`Machine::run`].
    pub fn run(self) -> Result<Option<End>, Error> {
        let Self { machine, observers, limits, step, stop } = self;
        let limits = stop.limits(limits);
        let mut control = RunControl { observers, ..RunControl::with_limits(limits)? };
        let end = if step {
            machine.step_until(stop, &mut control)?
        } else {
            machine.run_until(stop, &mut control)?
        };
        finish_output(&machine.board.output, end.as_ref())?;
        Ok(end)
    }
}

/// Writes out what the guest printed. After a limit or a signal the run ends whether the output is read or not.
fn finish_output(output: &Output, end: Option<&End>) -> Result<(), Error> {
    let is_stopped = matches!(end, Some(End::TimeLimit(_) | End::Interrupted));
    if is_stopped { output.sync() } else { output.finish() }.map_err(Error::Console)
}

impl<S: fmt::Debug> fmt::Debug for Runner<'_, '_, '_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limits, step, stop, .. } = self;
        f.debug_struct("Runner")
            .field("limits", limits)
            .field("step", step)
            .field("stop", stop)
            .finish_non_exhaustive()
    }
}
