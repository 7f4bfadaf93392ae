//! Narrowing: from the last exit of a run to a few hundred instructions before its end.
//!
//! Between its last exit and its end a guest may execute billions of instructions, far too many to look at one by one. So
//! the machine runs freely and is kicked now and then; each time it is remembered whole. When the run ends, the last of
//! these places is the nearest one; from there it goes on with shorter times between the kicks. Where these get too
//! short, blind steps take over: single steps without a look at the state, which is what makes steps slow.

use std::collections::VecDeque;
use std::time::Duration;

use kvm_sys_wrap::Alarm;

use crate::error::Error;
use crate::replay::{Mark, Replayed, Replayer, Step};

/// The first time between kicks, and the last.
const LONGEST: Duration = Duration::from_millis(20);
const SHORTEST: Duration = Duration::from_micros(40);
/// By how much the time between kicks shrinks from round to round.
const FACTOR: u32 = 8;
/// How many places are remembered.
const PLACES: usize = 3;
/// Blind steps between two places that are remembered.
const STRIDE: u64 = 400;

/// What narrowing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Narrowed {
    /// The replay stands near the end.
    Near,
    /// The replay left the recorded run.
    Diverged,
    /// Time is up; the replay stands at the nearest place that was found.
    OutOfTime,
}

/// Brings a replay that stands at the last exit near the end of its run.
pub(super) fn approach(replayer: &mut Replayer<'_>) -> Result<Narrowed, Error> {
    let (mut places, mut interval) = (VecDeque::from([replayer.mark()?]), LONGEST);
    loop {
        let result = pass(replayer, &mut places, interval)?;
        // Not the very last: what led to the end is to be seen too.
        if let Some(place) = places.front() {
            replayer.return_to(place)?;
        }
        if result != Narrowed::Near {
            return Ok(result);
        }
        if interval <= SHORTEST {
            break;
        }
        interval = (interval / FACTOR).max(SHORTEST);
    }
    // Where KVM interprets everything a kick costs more than it passes over, and a step over HLT has to be known.
    if super::refusal::interprets_all() { Ok(Narrowed::Near) } else { stride(replayer) }
}

/// Runs to the end once, with a kick every `interval`; `places` become those of the last ones.
fn pass(
    replayer: &mut Replayer<'_>,
    places: &mut VecDeque<Mark>,
    interval: Duration,
) -> Result<Narrowed, Error> {
    let mut interval = interval;
    loop {
        let alarm = Alarm::set(interval)?;
        let result = loop {
            match replayer.turn()? {
                Replayed::Served | Replayed::Debug(_) => {}
                other
                @ (Replayed::Kicked | Replayed::Ended(_) | Replayed::Diverged | Replayed::OutOfTime) => {
                    break other;
                }
            }
        };
        drop(alarm);
        match result {
            Replayed::Ended(_) => return Ok(Narrowed::Near),
            Replayed::Diverged => return Ok(Narrowed::Diverged),
            Replayed::OutOfTime => return Ok(Narrowed::OutOfTime),
            Replayed::Kicked | Replayed::Served | Replayed::Debug(_) => {
                let here = replayer.mark()?;
                // A kick that comes before the guest could do anything would come like that for ever.
                if places.back().is_some_and(|last| last.is_at(&here)) {
                    interval = interval.saturating_mul(2);
                    places.pop_back();
                }
                places.push_back(here);
                if places.len() > PLACES {
                    places.pop_front();
                }
            }
        }
    }
}

/// Steps blindly to the end, and goes back to a place a few hundred steps before it.
fn stride(replayer: &mut Replayer<'_>) -> Result<Narrowed, Error> {
    let from = replayer.mark()?;
    let (mut older, mut newer) = (from.clone(), from);
    for number in 1_u64.. {
        let result = match replayer.examine(None, None)? {
            Step::Done | Step::Caught | Step::Kicked => None,
            Step::Ended(_) => Some(Narrowed::Near),
            Step::Diverged => Some(Narrowed::Diverged),
            Step::OutOfTime => Some(Narrowed::OutOfTime),
        };
        let late = replayer.is_out_of_time();
        if let Some(result) = result.or(late.then_some(Narrowed::OutOfTime)) {
            replayer.return_to(&older)?;
            return Ok(result);
        }
        if number.is_multiple_of(STRIDE) {
            older = std::mem::replace(&mut newer, replayer.mark()?);
        }
    }
    Ok(Narrowed::Near)
}
