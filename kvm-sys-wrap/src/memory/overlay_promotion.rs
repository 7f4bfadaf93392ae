//! Giving up overlays: what memory still shows of files is copied, all at once.
//!
//! Each page of a file costs a guest that touches it a fault of its own, and KVM maps no neighbours along, since private
//! pages of a file are read-only until they are written (its prefetching wants writable ones). For a guest that goes through
//! most of a large file a copy in huge pages is many times faster.
//!
//! The copy is made aside and then takes the overlay's place in one step, `mremap`, which moves page tables and no bytes.

use std::io;
use std::sync::Arc;

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use super::Existing;
use super::advise;
use super::file_mapping::FileMapping;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};

/// The size of a huge page.
const HUGE_PAGE: usize = 2 << 20;

impl Vm {
    /// Bytes of guest memory that show files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.lock_memory().overlays().fold(0, |sum, overlay| sum.saturating_add(overlay.size))
    }

    /// Copies all that memory shows of files, with what has been written there since. Nobody may write to guest memory
    /// meanwhile, neither a vCPU nor this process: such a write could be lost.
    ///
    /// # Errors
    /// [`Error::FileChanged`](crate::Error::FileChanged), or [`Error::Call`](crate::Error::Call); what is not copied then still
    /// shows its file.
    pub fn promote_overlays(&self) -> Result<()> {
        let mut memory = self.lock_memory();
        for existing in memory.slots.values_mut() {
            while let Some(overlay) = existing.overlays.last() {
                let overlay = Arc::clone(overlay);
                self.fetch(existing, &overlay)?;
                overlay.check()?;
                existing.overlays.pop();
            }
        }
        Ok(())
    }

    fn fetch(&self, existing: &Existing, overlay: &FileMapping) -> Result<()> {
        let FileMapping { start, size, .. } = *overlay;
        let failed = || call_failed(Call::Mremap, format!("{size:#x} bytes of {}", existing.slot.describe()));
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(size).map_err(|_| failed()(outside()))?;
        let mapping = existing.region.get_mmap();
        let shown = mapping.get_slice(start, length).map_err(|_| failed()(outside()))?;

        // Room to lie in a huge page as the guest's memory does: then whole page tables move, and huge pages stay whole.
        let aside: MmapRegion = MmapRegion::new(length.saturating_add(HUGE_PAGE))
            .map_err(|error| failed()(io::Error::other(error)))?;
        let here = address(&shown) % HUGE_PAGE;
        let there = aside.as_ptr().addr() % HUGE_PAGE;
        let skew = (here + HUGE_PAGE - there) % HUGE_PAGE;
        let copy = aside.get_slice(skew, length).map_err(|_| failed()(outside()))?;
        for (flag, _) in existing.slot.advice.wanted() {
            // Advice only, as for the slot itself.
            let _ = advise(&aside, 0..aside.size() as u64, flag);
        }
        shown.copy_to_volatile_slice(copy);
        let words = format_args!("{size:#x} bytes, in place of a file's");
        self.observed().call(Call::Mremap, words, || take_place(&copy, &shown)).map_err(failed())
    }
}

fn address(slice: &VolatileSlice<'_>) -> usize {
    slice.ptr_guard().as_ptr().addr()
}

/// `mremap` of the pages of `new` to where those of `old` are. Where they came from stays mapped, with nothing in it.
fn take_place(new: &VolatileSlice<'_>, old: &VolatileSlice<'_>) -> io::Result<()> {
    let (from, to, length) = (new.ptr_guard_mut().as_ptr(), old.ptr_guard_mut().as_ptr(), old.len());
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: both ranges are whole pages inside live mappings of ours, of the same length, and do not overlap. Nothing but
    // volatile accesses touches either (vm-memory's contract), and they find the same bytes at `old` as before.
    let moved = unsafe { libc::mremap(from.cast(), length, length, flags, to.cast::<libc::c_void>()) };
    if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Page faults of this thread that needed no disk, so far: those in the kernel on behalf of a guest included.
#[must_use]
pub fn minor_faults() -> u64 {
    // SAFETY: rusage is plain data, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_minflt.try_into().unwrap_or(0)
}
