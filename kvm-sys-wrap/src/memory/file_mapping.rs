//! `mmap` of a range of a file over part of a slot: the guest sees the file's bytes without anybody reading them first.
//!
//! MAP_FIXED puts the file's pages in place of the slot's own. The mapping is private: writes of the guest, or of this
//! process, go to copies. KVM follows the change through its MMU notifier (mm/mmu_notifier.c), so the slot can be in use.

use std::io;
use std::os::fd::AsRawFd;

use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory};

use crate::address::{Gpa, PAGE_SIZE};
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, FileChange, Result, SlotShapeProblem, call_failed};
use crate::host_memory::{FileOverlay, FileRange, SigbusGuard, SlotBacking, advise, pread_volatile};

impl Vm {
    /// Maps part of a file over memory at `address` (`mmap` with MAP_FIXED and MAP_PRIVATE, `madvise`). The memory reads as the file from
    /// then on; writes go to private copies.
    ///
    /// Returns false where that is not possible, and does nothing then: memory that is shared or made of huge pages takes no
    /// file, and no more than about a thousand ranges are mapped at a time. [`Vm::copy_file`] always works.
    ///
    /// Installs the process's SIGBUS handler the first time (see the crate's documentation).
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::SlotShape`] where not all of it is inside one slot or the range is not made of whole
    /// pages of the file, or [`Error::Call`].
    pub fn map_file(&self, address: Gpa, range: &FileRange) -> Result<bool> {
        let mut table = self.lock_slots();
        let mapped = table.at(address).ok_or(Error::NoMemory { address })?;
        let (slot, region) = (&mapped.slot, &mapped.region);
        let number = slot.number;
        let shape = |problem| Error::SlotShape { slot: number, address, size: range.size, problem };
        if let Some(problem) = range.problem() {
            return Err(shape(problem));
        }
        if !address.is_aligned(PAGE_SIZE) {
            return Err(shape(SlotShapeProblem::FileRangeAddress));
        }
        match slot.backing {
            SlotBacking::Anonymous | SlotBacking::CopyOf { .. } => {}
            SlotBacking::Memfd | SlotBacking::Hugetlb => return Ok(false),
        }
        let outside = || shape(SlotShapeProblem::SmallerThanFileRange);
        let start = address.0.checked_sub(slot.address.0).and_then(|start| usize::try_from(start).ok());
        let (start, length) = start.zip(usize::try_from(range.size).ok()).ok_or_else(outside)?;
        let target = region.get_mmap();
        let target = target.get_slice(start, length).map_err(|_| outside())?;
        let host = target.ptr_guard_mut().as_ptr();
        // Guarded before the file is there: until then the addresses are those of memory that has all its pages.
        let host_end = (host as u64).saturating_add(range.size);
        let Some(guard) = SigbusGuard::new(host as u64..host_end) else { return Ok(false) };
        self.map_fixed(host, range)?;
        // A new mapping has no advice yet; the pages that the guest writes would be dumped. The slot's other advice is for
        // anonymous memory.
        let (mapping, offset) = (region.get_mmap(), address.0 - slot.address.0);
        let bytes = offset..offset.saturating_add(range.size);
        let dont_dump = || advise(&mapping, bytes, libc::MADV_DONTDUMP);
        let _ = self.dispatcher().call(Call::Madvise, format_args!("MADV_DONTDUMP"), dont_dump);
        let overlay = FileOverlay { guard, file: range.file.clone(), start, size: range.size };
        table.add_overlay(number, overlay);
        Ok(true)
    }

    /// `mmap` of the file with MAP_FIXED over the guest memory at `host`.
    fn map_fixed(&self, host: *mut u8, range: &FileRange) -> Result<()> {
        let FileRange { file, offset, size } = range;
        let failed = || call_failed(Call::Mmap, range.to_string());
        let too_large = || io::Error::from(io::ErrorKind::FileTooLarge);
        let length = usize::try_from(*size).map_err(|_| failed()(too_large()))?;
        let offset_argument = libc::off_t::try_from(*offset).map_err(|_| failed()(too_large()))?;
        self.dispatcher()
            .call(Call::Mmap, format_args!("{range}"), || {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE;
                // SAFETY: the caller has checked that `length` bytes at `host`, whole pages, are inside one mapping of
                // guest memory, which it holds locked and which stays mapped. Nothing but volatile accesses touches it
                // (vm-memory's contract), and they find other bytes there, as if the guest had written them.
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

    /// Copies part of a file to memory at `address` (`pread`).
    ///
    /// # Errors
    /// [`Error::NoMemory`] or [`Error::SlotShape`] where not all of it is inside one slot, [`Error::FileChanged`] where the file
    /// has become shorter, or [`Error::Call`].
    pub fn copy_file(&self, address: Gpa, range: &FileRange) -> Result<()> {
        let FileRange { file, offset, size } = range;
        let memory = self.memory();
        let slice = usize::try_from(*size).ok().and_then(|length| {
            let start: GuestAddress = address.into();
            memory.get_slice(start, length).ok()
        });
        let slice = slice.ok_or(Error::NoMemory { address })?;
        self.dispatcher()
            .call(Call::Pread, format_args!("{size:#x} bytes of a file"), || {
                pread_volatile(file.file(), &slice, *offset)
            })
            .map_err(|source| {
                if source.kind() == io::ErrorKind::UnexpectedEof {
                    Error::FileChanged { path: file.path().to_owned(), change: FileChange::Truncated }
                } else {
                    call_failed(Call::Pread, range.to_string())(source)
                }
            })
    }

    /// Checks that all files that guest memory shows are unchanged since they were opened. Call it after a run: the behaviour
    /// of a guest whose pages somebody else changed says nothing about the guest.
    ///
    /// # Errors
    /// [`Error::FileChanged`].
    pub fn check_mapped_files(&self) -> Result<()> {
        self.lock_slots().overlays().try_for_each(FileOverlay::check)
    }
}
