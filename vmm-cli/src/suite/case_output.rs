//! Output of the guest of one case: all of it as far as `[expect]` checks it, and its start and end for the report of a failure.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum size of the output that `[expect]` is checked against, in bytes.
const MAX_CHECKED: usize = 16 << 20;
/// Size of the start and of the end of the output that a report has, in bytes each.
const KEPT: usize = 64 << 10;

/// Output of a guest. Clones are handles to the same one.
#[derive(Debug, Clone)]
pub(super) struct CaseOutput(Arc<Mutex<Parts>>);

#[derive(Debug)]
struct Parts {
    /// First bytes, at most `max_start`.
    start: Vec<u8>,
    max_start: usize,
    /// Last of the bytes that follow, at most twice [`KEPT`].
    end: Vec<u8>,
    /// Total number of bytes.
    total: u64,
}

impl CaseOutput {
    /// Creates an empty output. If `checked` is false, only its start and end are kept.
    pub(super) fn new(checked: bool) -> Self {
        let max_start = if checked { MAX_CHECKED } else { KEPT };
        Self(Arc::new(Mutex::new(Parts { start: Vec::new(), max_start, end: Vec::new(), total: 0 })))
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clears the output.
    pub(super) fn clear(&self) {
        let mut parts = self.lock();
        parts.start.clear();
        parts.end.clear();
        parts.total = 0;
    }

    /// Adds output.
    pub(super) fn add(&self, bytes: &[u8]) {
        let mut parts = self.lock();
        parts.total = parts.total.saturating_add(bytes.len() as u64);
        let room = parts.max_start.saturating_sub(parts.start.len()).min(bytes.len());
        let (first, rest) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
        parts.start.extend_from_slice(first);
        if !rest.is_empty() {
            parts.end.extend_from_slice(last(rest));
            if parts.end.len() > 2 * KEPT {
                let surplus = parts.end.len() - KEPT;
                parts.end.drain(..surplus);
            }
        }
    }

    /// Calls `check` with the first bytes: all of them, up to the maximum that is checked.
    pub(super) fn with_checked<T>(&self, check: impl FnOnce(&[u8]) -> T) -> T {
        check(&self.lock().start)
    }

    /// Returns the output, or its start and end with a note between them.
    pub(super) fn shortened(&self) -> Vec<u8> {
        let parts = self.lock();
        let kept = 2 * KEPT as u64;
        if parts.total <= kept {
            return [&parts.start[..], &parts.end].concat();
        }
        let start = parts.start.get(..KEPT).unwrap_or(&parts.start);
        let mut text = start.to_vec();
        text.extend(format!("\n[{} bytes left out]\n", parts.total - kept).into_bytes());
        let missing = KEPT.saturating_sub(parts.end.len()).min(parts.start.len());
        text.extend(parts.start.get(parts.start.len() - missing..).unwrap_or_default());
        text.extend(last(&parts.end));
        text
    }
}

/// Returns the last bytes, at most [`KEPT`].
fn last(bytes: &[u8]) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(KEPT)..).unwrap_or(bytes)
}

impl Write for CaseOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_and_end_are_kept() {
        for checked in [false, true] {
            for length in [0, 1, KEPT, 2 * KEPT, 2 * KEPT + 1, 5 * KEPT + 3] {
                let all: Vec<u8> = (0..=255).cycle().take(length).collect();
                for piece in [1000, KEPT, 3 * KEPT] {
                    let output = CaseOutput::new(checked);
                    all.chunks(piece).for_each(|bytes| output.add(bytes));
                    let short = output.shortened();
                    if length <= 2 * KEPT {
                        assert!(short == all, "{length} {piece}");
                        continue;
                    }
                    let note = format!("\n[{} bytes left out]\n", length - 2 * KEPT).into_bytes();
                    let expected = [&all[..KEPT], &note[..], &all[length - KEPT..]].concat();
                    assert!(short == expected, "{length} {piece}");
                    let size = output.with_checked(<[u8]>::len);
                    assert_eq!(size, if checked { length } else { KEPT });
                    output.clear();
                    assert!(output.shortened().is_empty());
                }
            }
        }
    }
}
