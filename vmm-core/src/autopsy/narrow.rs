//! Narrowing: from the last exit of a run to a few thousand instructions before its end.
//!
//! Between its last exit and its end a guest may execute billions of instructions, far too many for single steps. So the
//! machine runs freely and is kicked now and then; each time it is remembered whole. When the run ends, the last of these
//! places is the nearest one; from there it goes on with shorter times between the kicks.

use std::time::Duration;

use kvm_sys_wrap::Alarm;

use crate::error::Error;
use crate::replay::{Mark, Replayed, Replayer};

/// The first time between kicks, and the last.
const LONGEST: Duration = Duration::from_millis(20);
const SHORTEST: Duration = Duration::from_micros(40);
/// By how much the time between kicks shrinks from round to round.
const FACTOR: u32 = 8;

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

/// Brings a replay that stands at `from` near the end of its run.
pub(super) fn approach(replayer: &mut Replayer<'_>, from: Mark) -> Result<Narrowed, Error> {
    let (mut nearest, mut interval) = (from, LONGEST);
    loop {
        let result = pass(replayer, &mut nearest, interval)?;
        replayer.return_to(&nearest)?;
        if result != Narrowed::Near || interval <= SHORTEST {
            return Ok(result);
        }
        interval = (interval / FACTOR).max(SHORTEST);
    }
}

/// Runs to the end once, with a kick every `interval`; `nearest` becomes the place of the last one.
fn pass(replayer: &mut Replayer<'_>, nearest: &mut Mark, interval: Duration) -> Result<Narrowed, Error> {
    let mut interval = interval;
    loop {
        let alarm = Alarm::set(interval)?;
        let result = loop {
            match replayer.turn()? {
                Replayed::Served | Replayed::Debug(_) => {}
                other @ (Replayed::Kicked
                | Replayed::Ended(_)
                | Replayed::Diverged
                | Replayed::OutOfTime) => break other,
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
                if here.is_at(nearest) {
                    interval = interval.saturating_mul(2);
                }
                *nearest = here;
            }
        }
    }
}
