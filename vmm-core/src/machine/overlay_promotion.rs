//! A guest that goes through much of a file which its memory shows is given all of it at once.
//!
//! Nobody knows beforehand how much of a large file a guest will touch. So it starts with the file mapped, at no cost, and its
//! page faults are counted now and then: soon after the start, then less and less often. On most hosts they cost so little that
//! mapping is never the worse bargain. Where they are slow, and follow each other, the guest gets a copy of all of it
//! ([`Vm::fetch_files`]), in huge pages, early.
//!
//! Only on machines whose one vCPU runs on the caller's thread: while the copy is made, nobody may write.

use std::ops::Range;
use std::time::{Duration, Instant};

use kvm_sys_wrap::{KickTimer, Vm, minor_faults};

use crate::machine::error::Error;

/// The time from one fault to the next by which they are slow. The kernel maps up to 16 pages of a file at a time for itself,
/// and counts one fault for them; the guest takes one for each. With VT-x or SVM that is some 20 us in all, and 370 us in ring 3
/// on kvm-pvm: copying as much takes 30. A guest that faults less often has other things to do.
const SLOW: Range<Duration> = Duration::from_micros(100)..Duration::from_millis(1);

/// One slow fault for so many bytes of files is enough: then the guest has touched a 256th of what it was given.
const BYTES_PER_FAULT: u64 = 16 << 20;

/// Fewer faults are never worth a copy: a guest needs some for its own memory.
const MIN_FAULTS: u64 = 16;

/// When to look first, and how long at most until the next look.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_millis(128);

/// Watches a guest whose memory shows files.
pub(crate) struct OverlayPromotion {
    alarm: KickTimer,
    due: Instant,
    interval: Duration,
    /// When it was looked last, and how many faults there had been.
    looked: (Instant, u64),
    /// Slow faults so far, and how many are enough for a copy.
    slow: u64,
    enough: u64,
}

impl OverlayPromotion {
    /// Begins to watch, on the thread that runs the vCPU. `None` where no files are shown.
    pub(crate) fn start(vm: &Vm) -> Result<Option<Self>, Error> {
        let bytes = vm.mapped_file_bytes();
        if bytes == 0 {
            return Ok(None);
        }
        let (now, enough) = (Instant::now(), MIN_FAULTS.max(bytes / BYTES_PER_FAULT));
        Ok(Some(Self {
            alarm: KickTimer::new(MIN_INTERVAL)?,
            due: now + MIN_INTERVAL,
            interval: MIN_INTERVAL,
            looked: (now, minor_faults()),
            slow: 0,
            enough,
        }))
    }

    /// To be asked after each exit. Whether the files have been copied, and there is nothing left to watch.
    pub(crate) fn look(&mut self, vm: &Vm) -> Result<bool, Error> {
        let now = Instant::now();
        if now < self.due {
            return Ok(false);
        }
        let faults = minor_faults();
        let (then, before) = std::mem::replace(&mut self.looked, (now, faults));
        let new = faults.saturating_sub(before);
        let each = u32::try_from(new).ok().and_then(|new| (now - then).checked_div(new));
        if each.is_some_and(|each| SLOW.contains(&each)) {
            self.slow = self.slow.saturating_add(new);
        }
        if self.slow >= self.enough {
            vm.promote_overlays()?;
            return Ok(true);
        }
        self.interval = MAX_INTERVAL.min(self.interval * 2);
        self.due = now + self.interval;
        self.alarm.reset(self.interval)?;
        Ok(false)
    }
}
