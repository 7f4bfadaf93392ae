//! Replacement of file overlays by anonymous copies: prepared aside, then moved over the overlay with `mremap`.
//!
//! Each page of a file costs a guest that touches it a fault, and KVM maps no neighbouring pages with it: private pages of a
//! file are read-only until they are written, and KVM prefetches only writable ones. For a guest that touches most of a large
//! file, one copy in huge pages is many times faster. `mremap` moves page tables and no bytes.

use std::io;
use std::sync::Arc;

use vm_memory::{MmapRegion, VolatileMemory, VolatileSlice};

use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};
use crate::host_memory::{FileOverlay, MappedSlot, advise};

/// Size of a huge page in bytes.
const HUGE_PAGE: usize = 2 << 20;

impl Vm {
    /// Returns the size in bytes of all parts of guest memory that files are mapped over ([`Vm::map_file`]).
    #[must_use]
    pub fn mapped_file_bytes(&self) -> u64 {
        self.lock_slots().overlays().fold(0, |sum, overlay| sum.saturating_add(overlay.size))
    }

    /// Replaces all file ranges in guest memory by copies, with what was written there since (`mmap`, `madvise`, `mremap`). No
    /// vCPU may run and nothing else may write to guest memory meanwhile: such a write could be lost.
    ///
    /// # Errors
    /// [`Error::FileChanged`](crate::Error::FileChanged), or [`Error::Call`](crate::Error::Call); ranges that are not copied then
    /// still show their file.
    pub fn promote_overlays(&self) -> Result<()> {
        let mut table = self.lock_slots();
        for mapped in table.slots.values_mut() {
            while let Some(overlay) = mapped.overlays.last() {
                let overlay = Arc::clone(overlay);
                self.promote(mapped, &overlay)?;
                overlay.check()?;
                mapped.overlays.pop();
            }
        }
        Ok(())
    }

    fn promote(&self, mapped: &MappedSlot, overlay: &FileOverlay) -> Result<()> {
        let FileOverlay { start, size, .. } = *overlay;
        let failed = || call_failed(Call::Mremap, format!("{size:#x} bytes of {}", mapped.slot.describe()));
        let outside = || io::Error::from(io::ErrorKind::InvalidInput);
        let length = usize::try_from(size).map_err(|_| failed()(outside()))?;
        let mapping = mapped.region.get_mmap();
        let shown = mapping.get_slice(start, length).map_err(|_| failed()(outside()))?;

        // Room for the same offset in a huge page as in guest memory: then whole page tables move, and huge pages stay whole.
        let aside: MmapRegion = MmapRegion::new(length.saturating_add(HUGE_PAGE))
            .map_err(|error| failed()(io::Error::other(error)))?;
        let target = address(&shown) % HUGE_PAGE;
        let base = aside.as_ptr().addr() % HUGE_PAGE;
        let skew = (target + HUGE_PAGE - base) % HUGE_PAGE;
        let copy = aside.get_slice(skew, length).map_err(|_| failed()(outside()))?;
        for (flag, _) in mapped.slot.advice.flags() {
            // A kernel without it works as well.
            let _ = advise(&aside, 0..aside.size() as u64, flag);
        }
        shown.copy_to_volatile_slice(copy);
        let arguments = format_args!("{size:#x} bytes, in place of a file's");
        self.dispatcher().call(Call::Mremap, arguments, || move_pages(&copy, &shown)).map_err(failed())
    }
}

fn address(slice: &VolatileSlice<'_>) -> usize {
    slice.ptr_guard().as_ptr().addr()
}

/// `mremap` of the pages of `new` over those of `old`. The addresses of `new` stay mapped, without pages.
fn move_pages(new: &VolatileSlice<'_>, old: &VolatileSlice<'_>) -> io::Result<()> {
    let (from, to, length) = (new.ptr_guard_mut().as_ptr(), old.ptr_guard_mut().as_ptr(), old.len());
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
    // SAFETY: both ranges are whole pages inside live mappings of ours, of the same length, and do not overlap. Nothing but
    // volatile accesses touches either (vm-memory's contract), and they find the same bytes at `old` as before.
    let moved = unsafe { libc::mremap(from.cast(), length, length, flags, to.cast::<libc::c_void>()) };
    if moved == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns the page faults of this thread so far that needed no disk (`getrusage`, `ru_minflt`), those in the kernel on behalf of a
/// guest included.
#[must_use]
pub fn minor_faults() -> u64 {
    // SAFETY: rusage is plain data, for which zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    usage.ru_minflt.try_into().unwrap_or(0)
}
