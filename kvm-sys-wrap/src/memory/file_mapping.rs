//! Part of a file laid over part of a slot: the guest sees the file's bytes, and nobody has read them yet.
//!
//! `mmap` with MAP_FIXED puts the file's pages where the slot's fresh ones were. The mapping is private: what the guest
//! writes, or what we do, goes to copies. The kernel finds out by itself that other pages are there now
//! (mm/mmu_notifier.c), so a slot can already be in use.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vm_memory::{GuestMemoryRegion, VolatileMemory};

use super::backing::SlotBacking;
use super::mapped_file::MappedFile;
use super::sigbus::SigbusGuard;
use super::{Memory, PAGE};
use crate::address::Gpa;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};

/// A range of a file that guest memory is to show.
#[derive(Debug, Clone)]
pub struct FileRange {
    /// The file.
    pub file: MappedFile,
    /// Where in the file it begins; a multiple of 4 KiB.
    pub offset: u64,
    /// Its size in bytes; a multiple of 4 KiB, not 0. The file must have them all.
    pub size: u64,
}

/// As it is asked of `mmap`.
impl fmt::Display for FileRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, offset, size } = self;
        let name = file.path().file_name().unwrap_or_default().display();
        write!(f, "{size:#x} bytes of {name} from {offset:#x}, private, fixed")
    }
}

impl FileRange {
    /// Its bytes; fewer where the file has not that many.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        let start = usize::try_from(self.offset).unwrap_or(usize::MAX);
        let bytes = self.file.bytes().get(start..).unwrap_or_default();
        usize::try_from(self.size).ok().and_then(|size| bytes.get(..size)).unwrap_or(bytes)
    }

    fn problem(&self) -> Option<&'static str> {
        if self.size == 0 || !self.size.is_multiple_of(PAGE) || !self.offset.is_multiple_of(PAGE) {
            return Some("is laid over with what are not whole pages of a file");
        }
        let inside = self.offset.checked_add(self.size).is_some_and(|end| end <= self.file.size());
        (!inside).then_some("is laid over with more than the file has")
    }
}

/// An overlay of a slot. Its guard goes before the slot's memory does.
#[derive(Debug)]
pub(super) struct FileMapping {
    guard: SigbusGuard,
    file: MappedFile,
    /// Where in the slot's memory it begins, in bytes.
    pub(super) start: usize,
    /// Its bytes.
    pub(super) size: u64,
}

impl FileMapping {
    pub(super) fn check(&self) -> Result<()> {
        if self.guard.is_truncated() {
            let path = self.file.path().to_owned();
            return Err(Error::FileChanged { path, problem: "became shorter" });
        }
        self.file.check()
    }
}

impl Vm {
    /// Lays part of a file over memory at `address`, which reads as the file from then on; writes go to private copies. Returns
    /// whether that was possible: memory that is shared, or made of huge pages, takes no overlay, and no more than some
    /// hundreds of ranges are mapped at a time. Then nothing was done, and the bytes have to be copied.
    ///
    /// # Errors
    /// [`Error::SlotShape`] where not all of it is inside one slot or the range is not made of whole pages of the file, or
    /// [`Error::Call`].
    pub fn map_file(&self, address: Gpa, range: &FileRange) -> Result<bool> {
        let mut memory = self.lock_memory();
        let existing = memory.slot_of(address).ok_or(Error::NoMemory { address })?;
        let (slot, region) = (&existing.slot, &existing.region);
        let shape = |problem| Error::SlotShape { slot: slot.number, address, size: range.size, problem };
        if let Some(problem) = range.problem() {
            return Err(shape(problem));
        }
        if !address.is_aligned(PAGE) {
            return Err(shape("is laid over with a file from the middle of a page"));
        }
        match slot.backing {
            SlotBacking::Anonymous | SlotBacking::CopyOf { .. } => {}
            SlotBacking::Memfd | SlotBacking::Hugetlb => return Ok(false),
        }
        let outside = || shape("is too small for the file");
        let start = address.0.checked_sub(slot.address.0).and_then(|start| usize::try_from(start).ok());
        let (start, length) = start.zip(usize::try_from(range.size).ok()).ok_or_else(outside)?;
        let target = region.get_mmap();
        let target = target.get_slice(start, length).map_err(|_| outside())?;
        let host = target.ptr_guard_mut().as_ptr();
        // Guarded before there is anything to guard: until then the addresses are those of memory that is always there.
        let host_end = (host as u64).saturating_add(range.size);
        let Some(guard) = SigbusGuard::new(host as u64..host_end) else { return Ok(false) };
        self.lay_over(host, range)?;
        let overlay = FileMapping { guard, file: range.file.clone(), start, size: range.size };
        memory.add_overlay(slot.number, overlay);
        Ok(true)
    }

    /// `mmap` of the file with MAP_FIXED, at the pages from `host` on, which are guest memory.
    fn lay_over(&self, host: *mut u8, range: &FileRange) -> Result<()> {
        let FileRange { file, offset, size } = range;
        let failed = || call_failed(Call::Mmap, range.to_string());
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let length = usize::try_from(*size).map_err(|_| failed()(too_large()))?;
        let offset_argument = libc::off_t::try_from(*offset).map_err(|_| failed()(too_large()))?;
        self.observed()
            .call(Call::Mmap, format_args!("{range}"), || {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
                // SAFETY: the caller has checked that `length` bytes from `host` on, whole pages, are inside one mapping of
                // guest memory, which is locked and stays mapped. Nothing but volatile accesses touches it (vm-memory's
                // contract), and they find other bytes there, as if the guest had written them.
                let mapped = unsafe {
                    libc::mmap(
                        host.cast(),
                        length,
                        protection,
                        flags,
                        file.file().as_raw_fd(),
                        offset_argument,
                    )
                };
                if mapped == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
            })
            .map_err(failed())
    }

    /// Whether all files that guest memory shows were left alone since they were opened. To be asked after a run: what a
    /// guest did with pages that somebody else changed meanwhile says nothing about the guest.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check_files(&self) -> Result<()> {
        self.lock_memory().overlays().try_for_each(FileMapping::check)
    }
}

impl Memory {
    fn slot_of(&self, address: Gpa) -> Option<super::Existing> {
        let inside = |existing: &&super::Existing| existing.region.to_region_addr(address.into()).is_some();
        self.slots.values().find(inside).cloned()
    }

    fn add_overlay(&mut self, number: u32, overlay: FileMapping) {
        if let Some(existing) = self.slots.get_mut(&number) {
            existing.overlays.push(Arc::new(overlay));
        }
    }

    pub(super) fn overlays(&self) -> impl Iterator<Item = &FileMapping> {
        self.slots.values().flat_map(|existing| &existing.overlays).map(|overlay| &**overlay)
    }
}
