//! Reset of a copy-on-write slot to its file: `PAGEMAP_SCAN` and `pread`, or `MADV_DONTNEED` for all of it.
//!
//! A page that was written, by the guest or by this process, is an anonymous page of the process; all others still show the
//! file. The process's page tables say which is which (Documentation/admin-guide/mm/pagemap.rst), so no log has to be kept, and
//! no writer can be missing in it. Linux 6.7 lists the written pages (`PAGEMAP_SCAN`); older kernels have a word for each page.
//!
//! A few pages are copied from the file again: the mappings of KVM and of this process stay valid. Many are discarded; the next
//! access to each faults and shows the file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use vm_memory::{GuestRegionMmap, VolatileMemory};

use crate::address::PAGE_SIZE;
use crate::call::Call;
use crate::create_vm::Vm;
use crate::error::{Error, Result, SlotNumberProblem, call_failed};
use crate::host_memory::{MappedSlot, MemoryFile, SlotBacking, pread_volatile};
use crate::ioctl_request;

/// Bytes of written pages that are copied; more are discarded. For a guest that writes to the same pages again a copy is cheaper
/// than the fault that it saves (4000 pages: 9.6 ms with the next run, instead of 14 ms); for pages that it never touches again
/// it is not.
const MAX_COPIED_BYTES: u64 = 64 << 20;

/// Size of a slot, in bytes, up to which the page tables are read word by word on kernels before 6.7.
const MAX_PAGEMAP_READ: u64 = 256 << 20;

const PAGEMAP_SCAN: libc::Ioctl = ioctl_request::PAGEMAP_SCAN as libc::Ioctl;

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

/// `struct page_region` of linux/fs.h: consecutive pages with the same properties.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

impl Vm {
    /// Resets all pages of a slot with [`SlotBacking::CopyOf`] that were written, by the guest or by this process: the slot reads
    /// as the file again (`PAGEMAP_SCAN` and `pread`, or `MADV_DONTNEED`). Writes during the call may survive it. Returns the
    /// size of the written pages in bytes, or the size of the slot where the kernel cannot tell.
    ///
    /// # Errors
    /// [`Error::SlotNumber`] where the slot does not exist or has another backing, or [`Error::Call`].
    pub fn reset_cow_pages(&self, number: u32) -> Result<u64> {
        let table = self.lock_slots();
        let mapped = table.get(number)?;
        let MappedSlot { slot, region, .. } = mapped;
        let SlotBacking::CopyOf { file, offset } = &slot.backing else {
            return Err(Error::SlotNumber { slot: number, problem: SlotNumberProblem::NotACopy });
        };
        let written = self
            .dispatcher()
            .call(Call::PagemapScan, format_args!("{:#x} bytes", slot.size), || written_ranges(region))
            .map_err(call_failed(Call::PagemapScan, slot.describe()))?;
        let bytes = written.as_ref().map(|ranges| ranges.iter().map(|range| range.end - range.start).sum());
        match written {
            Some(ranges) if bytes <= Some(MAX_COPIED_BYTES) => {
                let arguments = format_args!("{:#x} bytes in {} ranges", bytes.unwrap_or(0), ranges.len());
                self.dispatcher()
                    .call(Call::Pread, arguments, || {
                        ranges.iter().try_for_each(|range| copy_back(file, *offset, region, range))
                    })
                    .map_err(call_failed(Call::Pread, slot.describe()))?;
            }
            Some(_) | None => self.discard_pages(mapped, 0..slot.size)?,
        }
        Ok(bytes.unwrap_or(slot.size))
    }
}

/// Opens `/proc/self/pagemap` for [`Vm::reset_cow_pages`], which otherwise opens it at its first call, for programs that cannot
/// open files later. Returns false where that fails: then all pages of a slot are reset.
pub fn open_pagemap() -> bool {
    pagemap().is_some()
}

fn pagemap() -> Option<&'static File> {
    static PAGEMAP: OnceLock<Option<File>> = OnceLock::new();
    PAGEMAP.get_or_init(|| File::open("/proc/self/pagemap").ok()).as_ref()
}

/// Written pages of a private mapping, as offsets in it; `None` where the kernel cannot tell or the answer would take too long.
fn written_ranges(region: &GuestRegionMmap) -> io::Result<Option<Vec<Range<u64>>>> {
    let Some(pagemap) = pagemap() else { return Ok(None) };
    let mapping = region.get_mmap();
    let range = mapping.as_ptr() as u64..mapping.as_ptr() as u64 + mapping.size() as u64;
    match scan(pagemap, &range) {
        Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => Ok(read_pagemap(pagemap, &range)),
        result => result.map(Some),
    }
}

/// Written pages as `PAGEMAP_SCAN` lists them (Linux 6.7).
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

/// Written pages from the words of `/proc/self/pagemap`, for kernels before 6.7; `None` where that would take longer than it
/// saves.
fn read_pagemap(pagemap: &File, range: &Range<u64>) -> Option<Vec<Range<u64>>> {
    const FILE: u64 = 1 << 61;
    const SWAPPED: u64 = 1 << 62;
    const PRESENT: u64 = 1 << 63;
    let size = range.end - range.start;
    if size > MAX_PAGEMAP_READ {
        return None;
    }
    let mut words = vec![0; usize::try_from(size / PAGE_SIZE * 8).ok()?];
    pagemap.read_exact_at(&mut words, range.start / PAGE_SIZE * 8).ok()?;
    let mut found: Vec<Range<u64>> = Vec::new();
    for (number, word) in (0..).zip(words.as_chunks().0) {
        let (start, word) = (number * PAGE_SIZE, u64::from_le_bytes(*word));
        if word & FILE != 0 || word & (PRESENT | SWAPPED) == 0 {
            continue;
        }
        match found.last_mut() {
            Some(last) if last.end == start => last.end += PAGE_SIZE,
            Some(_) | None => found.push(start..start + PAGE_SIZE),
        }
    }
    Some(found)
}

/// Copies part of the file to the mapping, whose first byte shows the byte at `offset` of the file.
fn copy_back(file: &MemoryFile, offset: u64, region: &GuestRegionMmap, range: &Range<u64>) -> io::Result<()> {
    let outside = || io::Error::from(io::ErrorKind::InvalidInput);
    let index = |number: u64| usize::try_from(number).map_err(|_| outside());
    let (start, length) = (index(range.start)?, index(range.end - range.start)?);
    let mapping = region.get_mmap();
    let slice = mapping.get_slice(start, length).map_err(|_| outside())?;
    pread_volatile(file.file(), &slice, offset + range.start)
}
