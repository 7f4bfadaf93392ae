//! Moves a replay from the last exit of a run to a few hundred instructions before its end.
//!
//! Between its last exit and its end a guest may execute billions of instructions, too many to single-step. So the machine
//! runs freely and is kicked at intervals, and each kick saves a replay mark. When the run ends, the replay returns to one
//! of the last marks and repeats this with a shorter interval. The last pass adapts the interval to the shortest one in
//! which the guest makes progress. Then single steps without decoding, which are cheaper than traced ones, reach the end.

use std::collections::VecDeque;
use std::time::Duration;

use kvm_sys_wrap::KickTimer;

use crate::machine::error::Error;
use crate::machine::host::is_pvm;
use crate::record::replay::{ReplayMark, ReplayStep, Replayed, Replayer};

/// Kick intervals of the coarse passes.
const COARSE_INTERVALS: [Duration; 2] = [Duration::from_millis(20), Duration::from_micros(2500)];
/// Kick interval at the start of the last pass.
const FINE_INTERVAL: Duration = Duration::from_micros(30);
/// Kicks after which the interval of the last pass no longer shrinks.
const MAX_SHRINKING_KICKS: u32 = 150;
/// Marks that the last pass keeps.
const MAX_FINE_MARKS: usize = 12;
/// Marks that a coarse pass keeps.
const MAX_COARSE_MARKS: usize = 2;
/// Single steps between two marks.
const STEPS_PER_MARK: u64 = 400;
/// Least number of steps from a mark to the end: the trace also shows the instructions before the end.
const MIN_STEPS_TO_END: u64 = 64;

/// Result of the bisection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bisection {
    /// The replay is stopped near the end.
    Near,
    /// The replay diverged from the recorded run.
    Diverged,
    /// The time budget of the replay is used up.
    OutOfTime,
}

/// Interval between the kicks of a pass.
#[derive(Clone, Copy)]
enum KickInterval {
    /// Constant interval. It doubles after a kick that came before the guest made progress.
    Fixed(Duration),
    /// Interval that shrinks after progress and grows without, and the number of kicks so far.
    Adaptive(Duration, u32),
}

impl KickInterval {
    const fn duration(self) -> Duration {
        match self {
            Self::Fixed(interval) | Self::Adaptive(interval, _) => interval,
        }
    }

    /// Returns the interval after a kick. `progress`: the guest executed something since the previous kick.
    fn next(self, progress: bool) -> Self {
        match (self, progress) {
            (Self::Fixed(_), true) => self,
            (Self::Fixed(interval), false) => Self::Fixed(interval.saturating_mul(2)),
            (Self::Adaptive(interval, kicks), false) => Self::Adaptive(interval * 5 / 4, kicks + 1),
            (Self::Adaptive(interval, kicks), true) if kicks < MAX_SHRINKING_KICKS => {
                Self::Adaptive(interval * 4 / 5, kicks + 1)
            }
            (Self::Adaptive(interval, kicks), true) => Self::Adaptive(interval * 9 / 8, kicks),
        }
    }
}

/// Moves a replay that is stopped at the last exit near the end of its run.
pub(super) fn run_near_end(mut replayer: Replayer<'_>) -> Result<(Replayer<'_>, Bisection), Error> {
    let mut marks = VecDeque::from([replayer.mark()?]);
    for interval in COARSE_INTERVALS
        .map(KickInterval::Fixed)
        .into_iter()
        .chain([KickInterval::Adaptive(FINE_INTERVAL, 0)])
    {
        // Not the last mark: it may be the end itself.
        marks.truncate(1);
        let result = run_with_kicks(&mut replayer, &mut marks, interval)?;
        if result != Bisection::Near {
            return Ok((replayer, result));
        }
        if let Some(mark) = marks.front() {
            replayer = replayer.return_to(mark)?;
        }
    }
    // On kvm-pvm all code outside of 64-bit ring 3 is emulated. There a kick costs more than the steps that it saves, and a
    // step over HLT needs the decoded instruction.
    if is_pvm() {
        return Ok((replayer, Bisection::Near));
    }
    for mark in marks.iter().rev() {
        let (result, steps);
        (replayer, result, steps) = step_to_end(replayer.return_to(mark)?, mark)?;
        if result != Bisection::Near || steps >= MIN_STEPS_TO_END {
            return Ok((replayer, result));
        }
    }
    Ok((replayer, Bisection::Near))
}

/// Runs to the end with kicks at intervals. On return `marks` holds the marks of the last kicks.
fn run_with_kicks(
    replayer: &mut Replayer<'_>,
    marks: &mut VecDeque<ReplayMark>,
    interval: KickInterval,
) -> Result<Bisection, Error> {
    let (mut interval, max_marks) = match interval {
        KickInterval::Fixed(_) => (interval, MAX_COARSE_MARKS),
        KickInterval::Adaptive(..) => (interval, MAX_FINE_MARKS),
    };
    loop {
        let timer = KickTimer::new(interval.duration())?;
        let result = loop {
            match replayer.turn()? {
                Replayed::Served | Replayed::Debug(_) => {}
                other @ (Replayed::Interrupted
                | Replayed::Ended(_)
                | Replayed::Diverged
                | Replayed::OutOfTime) => {
                    break other;
                }
            }
        };
        drop(timer);
        match result {
            Replayed::Ended(_) => return Ok(Bisection::Near),
            Replayed::Diverged => return Ok(Bisection::Diverged),
            Replayed::OutOfTime => return Ok(Bisection::OutOfTime),
            Replayed::Interrupted | Replayed::Served | Replayed::Debug(_) => {
                let progress = !replayer.is_at(marks.back())?;
                interval = interval.next(progress);
                if progress {
                    marks.push_back(replayer.mark()?);
                }
                if marks.len() > max_marks {
                    marks.pop_front();
                }
            }
        }
    }
}

/// Single-steps from a mark to the end without decoding, then returns to a mark some hundred steps before it.
///
/// The number is that of the steps to the end.
fn step_to_end<'a>(
    mut replayer: Replayer<'a>,
    from: &ReplayMark,
) -> Result<(Replayer<'a>, Bisection, u64), Error> {
    let (mut older, mut newer) = (from.clone(), from.clone());
    for number in 1_u64.. {
        let result = match replayer.step(None, None)? {
            ReplayStep::Done | ReplayStep::AtHandler | ReplayStep::Interrupted => None,
            ReplayStep::Ended(_) => Some(Bisection::Near),
            ReplayStep::Diverged => Some(Bisection::Diverged),
            ReplayStep::OutOfTime => Some(Bisection::OutOfTime),
        };
        let timed_out = replayer.is_out_of_time();
        if let Some(result) = result.or(timed_out.then_some(Bisection::OutOfTime)) {
            return Ok((replayer.return_to(&older)?, result, number));
        }
        if number.is_multiple_of(STEPS_PER_MARK) {
            older = std::mem::replace(&mut newer, replayer.mark()?);
        }
    }
    Ok((replayer, Bisection::OutOfTime, u64::MAX))
}
