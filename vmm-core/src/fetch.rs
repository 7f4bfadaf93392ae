//! A guest that goes through much of a file which its memory shows is given all of it at once.
//!
//! Nobody knows beforehand how much of a large file a guest will touch. So it starts with the file mapped, at no cost, and its
//! page faults are counted now and then: soon after the start, then less and less often. Whoever has faulted often enough
//! for a copy to be the better bargain gets one ([`Vm::fetch_files`]); whoever does not, is soon left in peace.
//!
//! Only on machines whose one vCPU runs on the caller's thread: while the copy is made, nobody may write.

use std::time::{Duration, Instant};

use kvm_sys_wrap::{Alarm, Vm, page_faults};

use crate::error::Error;

/// One fault for so many bytes of files is enough. The kernel maps up to 16 pages of a file at a time for itself, so this is a
/// sixteenth of a file that is read from its start on, or a page in 256 of one that is read here and there.
const BYTES_PER_FAULT: u64 = 1 << 20;

/// Fewer faults are never worth a copy: a guest needs some for its own memory.
const FEWEST: u64 = 128;

/// When to look first, and how long at most until the next look.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(128);

/// Watches a guest whose memory shows files.
pub(crate) struct Fetch {
    alarm: Alarm,
    due: Instant,
    interval: Duration,
    /// The count of faults at which a copy is made.
    enough: u64,
}

impl Fetch {
    /// Begins to watch, on the thread that runs the vCPU. `None` where no files are shown.
    pub(crate) fn start(vm: &Vm) -> Result<Option<Self>, Error> {
        let bytes = vm.file_bytes();
        if bytes == 0 {
            return Ok(None);
        }
        let enough = page_faults().saturating_add(FEWEST.max(bytes / BYTES_PER_FAULT));
        let due = Instant::now() + SHORTEST;
        Ok(Some(Self { alarm: Alarm::set(SHORTEST)?, due, interval: SHORTEST, enough }))
    }

    /// To be asked after each exit. Whether the files have been copied, and there is nothing left to watch.
    pub(crate) fn look(&mut self, vm: &Vm) -> Result<bool, Error> {
        let now = Instant::now();
        if now < self.due {
            return Ok(false);
        }
        if page_faults() >= self.enough {
            vm.fetch_files()?;
            return Ok(true);
        }
        self.interval = LONGEST.min(self.interval * 2);
        self.due = now + self.interval;
        self.alarm.reset(self.interval)?;
        Ok(false)
    }
}
