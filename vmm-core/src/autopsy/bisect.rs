//! Narrowing: from the last exit of a run to a few hundred instructions before its end.
//!
//! Between its last exit and its end a guest may execute billions of instructions, far too many to look at one by one. So
//! the machine runs freely and is kicked now and then; each time it is remembered whole. When the run ends, the places
//! that were remembered last are near it, and from there it goes on with shorter times between the kicks. In the last
//! round the time is kept at the border where the guest just gets to run at all. From then on blind steps take over:
//! single steps without a look at the state, which is what makes steps slow.

use std::collections::VecDeque;
use std::time::Duration;

use kvm_sys_wrap::KickTimer;

use crate::machine::error::Error;
use crate::record::replay::{ReplayMark, ReplayStep, Replayed, Replayer};

/// Times between kicks of the coarse rounds.
const COARSE: [Duration; 2] = [Duration::from_millis(20), Duration::from_micros(2500)];
/// The time between kicks that the last round begins with.
const FINE: Duration = Duration::from_micros(30);
/// After this many kicks the last round hurries.
const MANY: u32 = 150;
/// How many places are remembered in the last round, and in the others.
const FINE_PLACES: usize = 12;
const COARSE_PLACES: usize = 2;
/// Blind steps between two places that are remembered.
const STRIDE: u64 = 400;
/// With fewer steps to the end a place is too near: what led to the end is to be seen too.
const TOO_NEAR: u64 = 64;

/// What narrowing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bisection {
    /// The replay stands near the end.
    Near,
    /// The replay left the recorded run.
    Diverged,
    /// Time is up.
    OutOfTime,
}

/// How a round waits for its kicks.
#[derive(Clone, Copy)]
enum Pace {
    /// Always the same time.
    Even(Duration),
    /// Shorter after a kick that came late, longer after one that came before the guest did anything.
    Creeping(Duration, u32),
}

impl Pace {
    const fn interval(self) -> Duration {
        match self {
            Self::Even(interval) | Self::Creeping(interval, _) => interval,
        }
    }

    /// The pace after a kick.
    fn after(self, progress: bool) -> Self {
        match (self, progress) {
            (Self::Even(_), true) => self,
            (Self::Even(interval), false) => Self::Even(interval.saturating_mul(2)),
            (Self::Creeping(interval, kicks), false) => Self::Creeping(interval * 5 / 4, kicks + 1),
            (Self::Creeping(interval, kicks), true) if kicks < MANY => {
                Self::Creeping(interval * 4 / 5, kicks + 1)
            }
            (Self::Creeping(interval, kicks), true) => Self::Creeping(interval * 9 / 8, kicks),
        }
    }
}

/// Brings a replay that stands at the last exit near the end of its run.
pub(super) fn approach(replayer: &mut Replayer<'_>) -> Result<Bisection, Error> {
    let mut places = VecDeque::from([replayer.mark()?]);
    for pace in COARSE.map(Pace::Even).into_iter().chain([Pace::Creeping(FINE, 0)]) {
        // Not from the very last place: it may be the end itself.
        places.truncate(1);
        let result = round(replayer, &mut places, pace)?;
        if result != Bisection::Near {
            return Ok(result);
        }
        if let Some(place) = places.front() {
            replayer.return_to(place)?;
        }
    }
    // Where KVM interprets everything a kick costs more than it passes over, and a step over HLT has to be known.
    if super::emulation_failure::interprets_all() {
        return Ok(Bisection::Near);
    }
    for place in places.iter().rev() {
        replayer.return_to(place)?;
        match stride(replayer, place)? {
            (Bisection::Near, steps) if steps < TOO_NEAR => {}
            (result, _) => return Ok(result),
        }
    }
    Ok(Bisection::Near)
}

/// Runs to the end once, with kicks; `places` become those of the last ones.
fn round(
    replayer: &mut Replayer<'_>,
    places: &mut VecDeque<ReplayMark>,
    pace: Pace,
) -> Result<Bisection, Error> {
    let (mut pace, most) = match pace {
        Pace::Even(_) => (pace, COARSE_PLACES),
        Pace::Creeping(..) => (pace, FINE_PLACES),
    };
    loop {
        let alarm = KickTimer::new(pace.interval())?;
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
        drop(alarm);
        match result {
            Replayed::Ended(_) => return Ok(Bisection::Near),
            Replayed::Diverged => return Ok(Bisection::Diverged),
            Replayed::OutOfTime => return Ok(Bisection::OutOfTime),
            Replayed::Interrupted | Replayed::Served | Replayed::Debug(_) => {
                let progress = !replayer.is_at(places.back())?;
                pace = pace.after(progress);
                if progress {
                    places.push_back(replayer.mark()?);
                }
                if places.len() > most {
                    places.pop_front();
                }
            }
        }
    }
}

/// Steps blindly from a place to the end, and goes back to where some hundred steps remain; with the number of steps.
fn stride(replayer: &mut Replayer<'_>, from: &ReplayMark) -> Result<(Bisection, u64), Error> {
    let (mut older, mut newer) = (from.clone(), from.clone());
    for number in 1_u64.. {
        let result = match replayer.step(None, None)? {
            ReplayStep::Done | ReplayStep::AtHandler | ReplayStep::Interrupted => None,
            ReplayStep::Ended(_) => Some(Bisection::Near),
            ReplayStep::Diverged => Some(Bisection::Diverged),
            ReplayStep::OutOfTime => Some(Bisection::OutOfTime),
        };
        let late = replayer.is_out_of_time();
        if let Some(result) = result.or(late.then_some(Bisection::OutOfTime)) {
            replayer.return_to(&older)?;
            return Ok((result, number));
        }
        if number.is_multiple_of(STRIDE) {
            older = std::mem::replace(&mut newer, replayer.mark()?);
        }
    }
    Ok((Bisection::OutOfTime, u64::MAX))
}
