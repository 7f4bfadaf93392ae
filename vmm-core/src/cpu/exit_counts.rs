//! Counters of a vCPU's exits, one for each type of exit.
//!
//! The run loop counts every exit before it serves it, so that a guest that reads the count over the hypercall ports sees
//! that exit counted. Counting is one addition to an array element.

use std::fmt;

use kvm_sys_wrap::Exit;
use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($variant:ident = $name:literal for $pattern:pat,)*) => {
        /// Type of an exit: an [`Exit`] without its data.
        #[expect(missing_docs, reason = "named and described as the variants of `Exit`")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ExitKind { $($variant,)* }

        impl ExitKind {
            /// All types of exits, each once.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Returns the name of the exit's type in messages and reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl From<&Exit> for ExitKind {
            fn from(exit: &Exit) -> Self {
                match exit { $($pattern => Self::$variant,)* }
            }
        }
    };
}

kinds! {
    PioIn = "pio-in" for Exit::PioIn { .. },
    PioOut = "pio-out" for Exit::PioOut { .. },
    MmioRead = "mmio-read" for Exit::MmioRead { .. },
    MmioWrite = "mmio-write" for Exit::MmioWrite { .. },
    Hlt = "hlt" for Exit::Hlt,
    Shutdown = "shutdown" for Exit::Shutdown,
    FailEntry = "fail-entry" for Exit::FailEntry { .. },
    InternalError = "internal-error" for Exit::InternalError { .. },
    SystemEvent = "system-event" for Exit::SystemEvent { .. },
    Debug = "debug" for Exit::Debug { .. },
    IrqWindowOpen = "irq-window-open" for Exit::IrqWindowOpen,
    Hypercall = "hypercall" for Exit::Hypercall { .. },
    ReadMsr = "read-msr" for Exit::ReadMsr { .. },
    WriteMsr = "write-msr" for Exit::WriteMsr { .. },
    IoapicEoi = "ioapic-eoi" for Exit::IoapicEoi { .. },
    SetTpr = "set-tpr" for Exit::SetTpr,
    TprAccess = "tpr-access" for Exit::TprAccess { .. },
    MemoryFault = "memory-fault" for Exit::MemoryFault { .. },
    BusLock = "bus-lock" for Exit::BusLock,
    Notify = "notify" for Exit::Notify { .. },
    DirtyRingFull = "dirty-ring-full" for Exit::DirtyRingFull,
    Unknown = "unknown" for Exit::Unknown { .. },
    Other = "other" for Exit::Other(_),
    Interrupted = "interrupted" for Exit::Interrupted,
    Again = "again" for Exit::Retry,
}

/// Returns true if an exit is caused by the guest, and not by a signal or by guest debugging.
#[must_use]
#[inline]
pub(crate) const fn is_guest_exit(exit: &Exit) -> bool {
    !matches!(exit, Exit::Interrupted | Exit::Retry | Exit::Debug { .. })
}

const KINDS: usize = ExitKind::ALL.len();

/// Number of exits of a vCPU for each type of exit. [`Exit::Interrupted`], [`Exit::Retry`] and [`Exit::Debug`] are counted,
/// but are not caused by the guest: the total excludes them, so that it depends neither on timing nor on a debugger.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitCounts([u64; KINDS]);

impl ExitCounts {
    /// Counts one exit.
    #[inline]
    pub(crate) fn record(&mut self, kind: ExitKind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count = count.wrapping_add(1);
        }
    }

    /// Adds the counts of another vCPU.
    pub(crate) fn add(&mut self, other: &Self) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count = count.wrapping_add(more);
        }
    }

    /// Subtracts an exit that the guest did not cause, such as a breakpoint.
    pub(crate) fn remove(&mut self, kind: ExitKind) {
        if let Some(count) = self.0.get_mut(kind as usize) {
            *count = count.saturating_sub(1);
        }
    }

    /// Returns the number of exits of one type.
    #[must_use]
    pub fn get(&self, kind: ExitKind) -> u64 {
        self.0.get(kind as usize).copied().unwrap_or(0)
    }

    /// Returns the number of exits that the guest caused.
    #[must_use]
    pub fn total(&self) -> u64 {
        let all = self.0.iter().fold(0_u64, |sum, count| sum.wrapping_add(*count));
        let others = [ExitKind::Interrupted, ExitKind::Again, ExitKind::Debug];
        others.into_iter().fold(all, |sum, kind| sum.wrapping_sub(self.get(kind)))
    }

    /// Returns the types of exits that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (ExitKind, u64)> + '_ {
        ExitKind::ALL.iter().copied().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// Formats one line for each type: name, a space, count.
impl fmt::Display for ExitCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(kind, count)| writeln!(f, "{} {count}", kind.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_type_and_in_total() {
        let mut counts = ExitCounts::default();
        for exit in [Exit::Hlt, Exit::Interrupted, Exit::Hlt, Exit::Other(99)] {
            counts.record(ExitKind::from(&exit));
        }
        assert_eq!(counts.get(ExitKind::Hlt), 2);
        assert_eq!(counts.total(), 3);
        assert_eq!(counts.to_string(), "hlt 2\nother 1\ninterrupted 1\n");
    }
}
