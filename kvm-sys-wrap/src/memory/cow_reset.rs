//! Taking back what was written to a private copy of a file: `PAGEMAP_SCAN` and `pread`, or `MADV_DONTNEED` for all of it.
//!
//! A page that somebody wrote, the guest or this process, has become the process's own; all others still show the file. The
//! process's page tables tell them apart (Documentation/admin-guide/mm/pagemap.rst): no log has to be kept, and no writer can be
//! missing in it. Linux 6.7 lists the former; a kernel before that has a word for each page.
//!
//! A few pages are copied from the file again, and stay where they are: KVM's mappings of them, and ours, stay good. Many
//! are thrown away; the next access to each then faults, and shows the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use vm_memory::{GuestRegionMmap, VolatileMemory};

use super::{Existing, PAGE};
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, call_failed};
use crate::memory::{MemoryFile, SlotBacking};

/// More bytes than this are thrown away. A guest that writes to the same pages again is better off with copies: a copy takes less
/// than the fault that it saves (4000 pages: 9.6 ms with the next run, in place of 14). But nobody knows that it will.
const MAX_COPIED_PAGES: u64 = 64 << 20;

/// Memory beyond this is not looked at page by page.
const MAX_PAGEMAP_READ: u64 = 256 << 20;

/// `_IOWR('f', 16, struct pm_scan_arg)` of linux/fs.h.
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610_u32 as libc::Ioctl;
const PAGE_IS_FILE: u64 = 1 << 2;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_length: u64,
    max_pages: u64,
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// `struct page_region` of linux/fs.h: pages with the same properties that follow each other.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

impl Vm {
    /// Takes back what was written to a slot with [`SlotBacking::CopyOf`], by whomever: it reads as the file again. Nobody may
    /// write to it meanwhile. Returns the bytes that had been written, as whole pages; where the kernel cannot tell, the
    /// size of the slot.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] where the slot does not exist or has another backing, or [`Error::Call`].
    pub fn reset_cow_pages(&self, number: u32) -> Result<u64> {
        let Existing { slot, region, .. } = self.lock_memory().existing(number)?;
        let SlotBacking::CopyOf { file, offset } = &slot.backing else {
            return Err(Error::SlotNumber { slot: number, problem: "is not a copy of a file" });
        };
        let written = self
            .observed()
            .call(Call::PagemapScan, format_args!("{:#x} bytes", slot.size), || written(&region))
            .map_err(call_failed(Call::PagemapScan, slot.describe()))?;
        let bytes = written.as_ref().map(|ranges| ranges.iter().map(|range| range.end - range.start).sum());
        match written {
            Some(ranges) if bytes <= Some(MAX_COPIED_PAGES) => {
                let words = format_args!("{:#x} bytes in {} ranges", bytes.unwrap_or(0), ranges.len());
                self.observed()
                    .call(Call::Pread, words, || {
                        ranges.iter().try_for_each(|range| copy_back(file, *offset, &region, range))
                    })
                    .map_err(call_failed(Call::Pread, slot.describe()))?;
            }
            Some(_) | None => self.punch_hole(number, 0..slot.size)?,
        }
        Ok(bytes.unwrap_or(slot.size))
    }
}

/// The pages of a private mapping that are the process's own, as offsets in it; `None` where nobody can tell.
fn written(region: &GuestRegionMmap) -> io::Result<Option<Vec<Range<u64>>>> {
    static PAGEMAP: OnceLock<Option<File>> = OnceLock::new();
    let open = || File::open("/proc/self/pagemap").ok();
    let Some(pagemap) = PAGEMAP.get_or_init(open) else { return Ok(None) };
    let mapping = region.get_mmap();
    let range = mapping.as_ptr() as u64..mapping.as_ptr() as u64 + mapping.size() as u64;
    match scan(pagemap, &range) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(read(pagemap, &range)),
        result => result.map(Some),
    }
}

/// The kernel's own list of them.
fn scan(pagemap: &File, range: &Range<u64>) -> io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut buffer = [PageRegion::default(); 64];
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start: range.start,
        end: range.end,
        regions_length: buffer.len() as u64,
        // Present or swapped out, and not a page of the file.
        inverted: PAGE_IS_FILE,
        all_of: PAGE_IS_FILE,
        any_of: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
        returned: PAGE_IS_FILE,
        ..Default::default()
    };
    while argument.start < argument.end {
        argument.regions = buffer.as_mut_ptr() as u64;
        // SAFETY: the argument and the buffer that it points to are live locals of the layout that the kernel documents; it
        // writes at most `regions_length` entries. It only reads page tables of this process.
        let result = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
        let count = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
        let offset = |address: u64| address.saturating_sub(range.start);
        found.extend(buffer.iter().take(count).map(|page| offset(page.start)..offset(page.end)));
        if argument.walk_end <= argument.start {
            return Err(io::Error::other("the kernel's walk over the pages does not go on"));
        }
        argument.start = argument.walk_end;
    }
    Ok(found)
}

/// The same of a kernel before 6.7, from a word for each page; `None` where that would take longer than it saves.
fn read(pagemap: &File, range: &Range<u64>) -> Option<Vec<Range<u64>>> {
    const FILE: u64 = 1 << 61;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    let size = range.end - range.start;
    if size > MAX_PAGEMAP_READ {
        return None;
    }
    let mut words = vec![0; usize::try_from(size / PAGE * 8).ok()?];
    pagemap.read_exact_at(&mut words, range.start / PAGE * 8).ok()?;
    let mut found: Vec<Range<u64>> = Vec::new();
    for (number, word) in (0..).zip(words.as_chunks().0) {
        let (start, word) = (number * PAGE, u64::from_le_bytes(*word));
        if word & FILE != 0 || word & (PRESENT | SWAPPED) == 0 {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end += PAGE,
            Some(_) | None => found.push(start..start + PAGE),
        }
    }
    Some(found)
}

/// Copies part of the file into the mapping whose first byte shows the byte at `offset` of it.
fn copy_back(file: &MemoryFile, offset: u64, region: &GuestRegionMmap, range: &Range<u64>) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let index = |number: u64| usize::try_from(number).map_err(|_| outside());
    let (start, length) = (index(range.start)?, index(range.end - range.start)?);
    let mapping = region.get_mmap();
    let slice = mapping.get_slice(start, length).map_err(|_| outside())?;
    file.read_volatile_at(&slice, offset + range.start)
}
