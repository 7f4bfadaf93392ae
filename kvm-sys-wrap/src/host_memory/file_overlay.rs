//! Range of a file that is, or is to be, mapped over guest memory. `file_mapping.rs` makes the calls.

use std::fmt;

use super::mapped_file::MappedFile;
use super::sigbus::SigbusGuard;
use crate::address::PAGE_SIZE;
use crate::error::{Error, FileChange, Result, SlotShapeProblem};

/// Range of a file, to be mapped over guest memory ([`Vm::map_file`](crate::Vm::map_file)).
#[derive(Debug, Clone)]
pub struct FileRange {
    /// File that contains the range.
    pub file: MappedFile,
    /// Offset of the range in the file, in bytes; a multiple of 4 KiB.
    pub offset: u64,
    /// Size of the range in bytes; a multiple of 4 KiB, not 0. The range must not leave the file.
    pub size: u64,
}

/// Arguments of the `mmap`.
impl fmt::Display for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, size } = self;
        let name = file.path().file_name().unwrap_or_default().display();
        write!(f, "{size:#x} bytes of {name} from {offset:#x}, private, fixed")
    }
}

impl FileRange {
    pub(crate) fn problem(&self) -> Option<SlotShapeProblem> {
        if self.size == 0 || !self.size.is_multiple_of(PAGE_SIZE) || !self.offset.is_multiple_of(PAGE_SIZE) {
            return Some(SlotShapeProblem::FileRangeUnaligned);
        }
        let inside = self.offset.checked_add(self.size).is_some_and(|end| end <= self.file.size());
        (!inside).then_some(SlotShapeProblem::FileRangeTooLarge)
    }
}

/// A file range that is mapped over a slot. Dropped before the slot's memory, because of the guard.
#[derive(Debug)]
pub(crate) struct FileOverlay {
    pub(crate) guard: SigbusGuard,
    pub(crate) file: MappedFile,
    /// Offset in the slot's memory, in bytes.
    pub(crate) start: usize,
    /// Size in bytes.
    pub(crate) size: u64,
}

impl FileOverlay {
    pub(crate) fn check(&self) -> Result<()> {
        if self.guard.is_truncated() {
            let path = self.file.path().to_owned();
            return Err(Error::FileChanged { path, change: FileChange::Truncated });
        }
        self.file.check()
    }
}
