//! Records of runs: the answers that the guest read, and a signature of each exit.
//!
//! A guest without interrupts is a function of its initial memory and of what it reads with IN and MMIO. With those answers the
//! same run can be repeated exit by exit ([`crate::record::replay`]): the autopsy examines a crash that way, and the debugger
//! goes backwards. A replay compares the signatures, so a run that differs is noticed at the first exit that does.
//!
//! Recording is always on, so it is cheap: no KVM call, 8 bytes and a few multiplications for each exit. A record is bounded,
//! and knows if it overflowed.

pub mod checkpoint;
pub(crate) mod position;
pub mod replay;

use std::fmt;

use kvm_sys_wrap::Exit;

use crate::cpu::exit_counts::{ExitKind, is_guest_exit};
use crate::machine::end::End;
use crate::machine::observer::{ExitView, Observer};

/// Largest size of a record in bytes: some four million exits.
const MAX_RECORD_SIZE: usize = 32 << 20;

/// Signature of an exit, in 64 bits: its type, width, bits 0 to 15 of the address, and a hash of all its data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(u64);

/// Record of a run: the exits of the guest and the answers that it read.
#[derive(Debug, Clone)]
pub struct Recording {
    signatures: Vec<Signature>,
    /// Answers that the guest read, without separators: the lengths follow from the exits.
    answers: Vec<u8>,
    /// Exits seen, recorded or not.
    seen: u64,
    limit: usize,
    full: bool,
}

impl Default for Recording {
    fn default() -> Self {
        Self::with_limit(MAX_RECORD_SIZE)
    }
}

impl Recording {
    /// Creates an empty record of the default size.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates an empty record that takes at most `limit` bytes.
    #[must_use]
    pub const fn with_limit(limit: usize) -> Self {
        Self { signatures: Vec::new(), answers: Vec::new(), seen: 0, limit, full: false }
    }

    /// Returns the number of recorded exits. Signals and debug events are not exits of the guest and are not recorded.
    #[must_use]
    pub fn exits(&self) -> u64 {
        u64::try_from(self.signatures.len()).unwrap_or(u64::MAX)
    }

    /// Returns true if the run went on after the record was full, so that only part of it can be replayed.
    #[must_use]
    pub const fn overflowed(&self) -> bool {
        self.full
    }

    /// Returns the number of exits of the run, recorded or not.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.seen
    }

    /// Records one exit that was served, with the answer that the guest reads.
    pub fn push(&mut self, exit: &Exit, answer: &[u8]) {
        if !is_guest_exit(exit) {
            return;
        }
        self.seen = self.seen.wrapping_add(1);
        let signatures = size_of_val(self.signatures.as_slice()) + size_of::<Signature>();
        self.full |= signatures + self.answers.len() + answer.len() > self.limit;
        if !self.full {
            self.signatures.push(Signature::from_exit(exit));
            self.answers.extend_from_slice(answer);
        }
    }

    /// Signature of exit number `index`, counted from 0.
    #[must_use]
    pub(crate) fn signature(&self, index: u64) -> Option<Signature> {
        self.signatures.get(usize::try_from(index).ok()?).copied()
    }

    /// Answer of `length` bytes at offset `at` of all answers.
    #[must_use]
    pub(crate) fn answer(&self, at: usize, length: usize) -> Option<&[u8]> {
        self.answers.get(at..at.checked_add(length)?)
    }
}

impl Observer for Recording {
    fn on_exit(&mut self, _: &ExitView<'_>) -> Option<End> {
        None
    }

    fn on_served(&mut self, view: &ExitView<'_>, answer: &[u8]) {
        self.push(view.exit, answer);
    }
}

impl Signature {
    /// Computes the signature of an exit with all its data.
    #[must_use]
    pub fn from_exit(exit: &Exit) -> Self {
        let kind = ExitKind::from(exit);
        let (address, width, count, data): (u64, u8, u32, &[u8]) = match exit {
            Exit::PioIn { port, width, count } => (port.0.into(), *width, *count, &[]),
            Exit::PioOut { port, width, count, data } => (port.0.into(), *width, *count, data),
            Exit::MmioRead { address, width } => (address.0, *width, 1, &[]),
            Exit::MmioWrite { address, data } => (address.0, u8::try_from(data.len()).unwrap_or(0), 1, data),
            Exit::Hlt
            | Exit::Shutdown
            | Exit::FailEntry { .. }
            | Exit::InternalError { .. }
            | Exit::SystemEvent { .. }
            | Exit::Debug { .. }
            | Exit::IrqWindowOpen
            | Exit::Hypercall { .. }
            | Exit::ReadMsr { .. }
            | Exit::WriteMsr { .. }
            | Exit::IoapicEoi { .. }
            | Exit::SetTpr
            | Exit::TprAccess { .. }
            | Exit::MemoryFault { .. }
            | Exit::BusLock
            | Exit::Notify { .. }
            | Exit::DirtyRingFull
            | Exit::Unknown { .. }
            | Exit::Other(_)
            | Exit::Interrupted
            | Exit::Retry => (0, 0, 0, &[]),
        };
        let mut hash = mix(address, u64::from(count));
        for chunk in data.chunks(8) {
            hash = mix(hash, chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
        Self((kind as u64) << 56 | u64::from(width) << 48 | (address & 0xffff) << 32 | hash >> 32)
    }

    fn kind(self) -> Option<ExitKind> {
        ExitKind::ALL.iter().copied().find(|kind| *kind as u64 == self.0 >> 56)
    }
}

/// Difference between a replay and the recorded run: the first exit that is not the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divergence {
    /// Number of the exit, counted from 0.
    pub exit: u64,
    /// Signature of the exit in the recorded run.
    pub recorded: Signature,
    /// Signature of the exit in the replay.
    pub found: Signature,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exit, recorded, found } = self;
        let data = if recorded.to_string() == found.to_string() { " with other data" } else { "" };
        write!(f, "exit {exit} was {recorded}, and is {found}{data} when run again")
    }
}

/// One round of a multiplicative hash; the constant is 2^64 divided by the golden ratio.
const fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// Type, width and bits 0 to 15 of the address.
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.kind().map_or("exit", ExitKind::name);
        let (width, low) = (self.0 >> 48 & 0xff, self.0 >> 32 & 0xffff);
        match self.kind() {
            Some(ExitKind::PioIn | ExitKind::PioOut) => write!(f, "{name}, {width} bytes at port {low:#x}"),
            Some(ExitKind::MmioRead | ExitKind::MmioWrite) => {
                write!(f, "{name}, {width} bytes at an address that ends in {low:04x}")
            }
            Some(_) | None => f.write_str(name),
        }
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({self})")
    }
}

#[cfg(test)]
mod tests {
    use kvm_sys_wrap::{IoBytes, Port};

    use super::*;

    fn out(port: u16, data: &[u8]) -> Exit {
        let width = u8::try_from(data.len()).unwrap();
        Exit::PioOut { port: Port(port), width, count: 1, data: IoBytes::new(data) }
    }

    #[test]
    fn exits_that_differ_in_anything_have_different_signatures() {
        let exits = [
            out(0xe9, b"a"),
            out(0xe9, b"b"),
            out(0xea, b"a"),
            out(0xe9, b"a\0"),
            Exit::PioIn { port: Port(0xe9), width: 1, count: 1 },
            Exit::PioIn { port: Port(0xe9), width: 1, count: 2 },
            Exit::Hlt,
            Exit::Shutdown,
        ];
        for (index, exit) in exits.iter().enumerate() {
            let same = exits
                .iter()
                .filter(|other| Signature::from_exit(other) == Signature::from_exit(exit))
                .count();
            assert_eq!(same, 1, "exit {index}");
        }
        assert_eq!(Signature::from_exit(&exits[0]).to_string(), "pio-out, 1 bytes at port 0xe9");
    }

    #[test]
    fn signals_are_not_recorded() {
        let mut recording = Recording::new();
        recording.push(&Exit::Interrupted, &[]);
        recording.push(&Exit::PioIn { port: Port(1), width: 1, count: 1 }, &[7]);
        recording.push(&Exit::Hlt, &[]);
        assert_eq!((recording.exits(), recording.seen()), (2, 2));
        assert_eq!(recording.answer(0, 1).unwrap(), [7]);
        assert_eq!(recording.answer(1, 1), None);
        assert_eq!(recording.signature(1).unwrap(), Signature::from_exit(&Exit::Hlt));
    }

    #[test]
    fn a_full_record_says_so_and_keeps_what_it_has() {
        let mut recording = Recording::with_limit(100);
        for _ in 0..1000 {
            recording.push(&Exit::Hlt, &[]);
        }
        assert!(recording.overflowed() && recording.exits() < 20);
        assert_eq!(recording.seen(), 1000);
    }
}
