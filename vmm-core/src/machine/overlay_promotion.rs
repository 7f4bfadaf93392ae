//! Promotion of file mappings to memory: a guest that touches much of a mapped file gets a copy of all of it.
//!
//! How much of a large file a guest will touch is not known beforehand. So it starts with the file mapped, at no cost, and its
//! page faults are counted: soon after the start, then less and less often. On most hosts faults are so cheap that mapping is
//! never slower. Where they are slow and frequent, the guest gets a copy in huge pages ([`Vm::promote_overlays`]).
//!
//! Only machines whose one vCPU runs on the caller's thread do this: nothing may write while the copy is made.

use std::ops::Range;
use std::time::{Duration, Instant};

use kvm_sys_wrap::{KickTimer, Vm, minor_faults};

use crate::machine::error::Error;

/// Times from one fault to the next that count as slow. The kernel maps up to 16 pages of a file at a time for itself,
/// and counts one fault for them; the guest takes one for each. With VT-x or SVM that is some 20 us in all, and 370 us in ring 3
/// on kvm-pvm: copying as much takes 30. A guest that faults less often has other things to do.
const SLOW_FAULT_TIME: Range<Duration> = Duration::from_micros(100)..Duration::from_millis(1);

/// Bytes of files for each slow fault that is needed for a copy: the guest has touched a 256th of the files then.
const BYTES_PER_FAULT: u64 = 16 << 20;

/// Least number of slow faults for a copy: a guest needs some faults for its own memory.
const MIN_FAULTS: u64 = 16;

/// Time until the first check, and longest time between checks.
const MIN_INTERVAL: Duration = Duration::from_millis(1);
const MAX_INTERVAL: Duration = Duration::from_millis(128);

/// Fault counter for a guest with mapped files.
pub(crate) struct OverlayPromotion {
    alarm: KickTimer,
    due: Instant,
    interval: Duration,
    /// Time of the last check, and the number of faults then.
    last_check: (Instant, u64),
    /// Slow faults so far, and the number that is enough for a copy.
    slow_faults: u64,
    threshold: u64,
}

impl OverlayPromotion {
    /// Starts counting, on the thread that runs the vCPU. `None` where no files are mapped.
    pub(crate) fn start(vm: &Vm) -> Result<Option<Self>, Error> {
        let bytes = vm.mapped_file_bytes();
        if bytes == 0 {
            return Ok(None);
        }
        let (now, threshold) = (Instant::now(), MIN_FAULTS.max(bytes / BYTES_PER_FAULT));
        Ok(Some(Self {
            alarm: KickTimer::new(MIN_INTERVAL)?,
            due: now + MIN_INTERVAL,
            interval: MIN_INTERVAL,
            last_check: (now, minor_faults()),
            slow_faults: 0,
            threshold,
        }))
    }

    /// Checks the faults, if it is time to; to be called after each exit. Returns true if the files have been copied, and there
    /// is nothing left to count.
    pub(crate) fn poll(&mut self, vm: &Vm) -> Result<bool, Error> {
        let now = Instant::now();
        if now < self.due {
            return Ok(false);
        }
        let faults = minor_faults();
        let (then, before) = std::mem::replace(&mut self.last_check, (now, faults));
        let new = faults.saturating_sub(before);
        let each = u32::try_from(new).ok().and_then(|new| (now - then).checked_div(new));
        if each.is_some_and(|each| SLOW_FAULT_TIME.contains(&each)) {
            self.slow_faults = self.slow_faults.saturating_add(new);
        }
        if self.slow_faults >= self.threshold {
            vm.promote_overlays()?;
            return Ok(true);
        }
        self.interval = MAX_INTERVAL.min(self.interval * 2);
        self.due = now + self.interval;
        self.alarm.reset(self.interval)?;
        Ok(false)
    }
}
