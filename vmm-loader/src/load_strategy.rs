//! Which way a segment goes into memory: mapped from its file, or copied.
//!
//! A mapped page costs nothing until the guest touches it, and then a fault; a copied one costs its copy beforehand. Only
//! whole pages can be mapped, so a segment must lie at the same place of a page in the file and in memory, as linkers make
//! it for just this purpose (gABI, "Program Loading": `p_vaddr` and `p_offset` are congruent modulo the page size). What its
//! first and last page share with something else is copied, and .bss stays as it is.

use std::fmt;

use vm_memory::GuestAddress;

use crate::segment::Segment;

const PAGE: u64 = 4096;

/// Segments with fewer bytes in the file than this are copied: making a mapping costs as much as copying so many.
pub const MAP_THRESHOLD: u64 = 32 << 20;

/// The user's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadPolicy {
    /// By size.
    #[default]
    Auto,
    /// Everything is copied, so that files may change as soon as the guest runs.
    Copy,
    /// What can be mapped is mapped.
    Map,
}

/// How a segment gets into memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMethod {
    /// These pages are mapped, the rest is copied.
    Map(MappedPart),
    /// All of it is copied.
    Copy(CopyReason),
}

/// Whole pages of a segment, all of whose bytes are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappedPart {
    /// Where in memory they begin; a multiple of 4 KiB.
    pub phys: GuestAddress,
    /// Where in the file; a multiple of 4 KiB.
    pub file_offset: u64,
    /// Bytes, a multiple of 4 KiB, not 0.
    pub size: u64,
}

/// Why a segment is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyReason {
    /// That takes no longer than mapping it.
    Small,
    /// The user wants it.
    Asked,
    /// In the file it lies elsewhere in its page than in memory.
    Unaligned,
    /// It fills no page.
    NoWholePage,
    /// Its bytes do not come from a file that is mapped.
    NoMapping,
    /// The memory there is shared, or made of huge pages.
    Backing,
    /// It lies in several regions of memory.
    SeveralRegions,
}

impl fmt::Display for CopyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "it is small",
            Self::Asked => "the configuration wants it",
            Self::Unaligned => "its offset in the file and its address differ in the lowest 12 bits",
            Self::NoWholePage => "it fills no page",
            Self::NoMapping => "its file is small, and read",
            Self::Backing => "the memory there is shared or made of huge pages",
            Self::SeveralRegions => "it lies in several regions of memory",
        })
    }
}

impl Segment {
    /// How it gets into private memory from a file that is mapped.
    #[must_use]
    pub fn load_method(&self, loading: LoadPolicy) -> LoadMethod {
        match loading {
            LoadPolicy::Copy => return LoadMethod::Copy(CopyReason::Asked),
            LoadPolicy::Auto if self.file_size < MAP_THRESHOLD => return LoadMethod::Copy(CopyReason::Small),
            LoadPolicy::Auto | LoadPolicy::Map => {}
        }
        if self.phys.0 % PAGE != self.file_offset % PAGE {
            return LoadMethod::Copy(CopyReason::Unaligned);
        }
        self.whole_pages().map_or(LoadMethod::Copy(CopyReason::NoWholePage), LoadMethod::Map)
    }

    /// Whether these pages are the ones of this segment that can be mapped.
    pub(crate) fn has(&self, part: &MappedPart) -> bool {
        self.whole_pages() == Some(*part)
    }

    fn whole_pages(&self) -> Option<MappedPart> {
        let start = self.phys.0.checked_next_multiple_of(PAGE)?;
        let end = self.phys.0.checked_add(self.file_size)? / PAGE * PAGE;
        let size = end.checked_sub(start).filter(|size| *size > 0)?;
        let file_offset = self.file_offset.checked_add(start - self.phys.0)?;
        Some(MappedPart { phys: GuestAddress(start), file_offset, size })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::VirtAddr;
    use crate::segment::SegmentFlags;

    fn segment(phys: u64, file_offset: u64, file_size: u64) -> Segment {
        let (virt, flags) = (VirtAddr(phys), SegmentFlags::ALL);
        let phys = GuestAddress(phys);
        Segment { index: 0, phys, virt, file_offset, file_size, mem_size: file_size.max(1), align: 1, flags }
    }

    #[test]
    fn every_reason() {
        let big = MAP_THRESHOLD + PAGE;
        let of = |segment: Segment, loading| match segment.load_method(loading) {
            LoadMethod::Copy(because) => Some(because),
            LoadMethod::Map(_) => None,
        };
        assert_eq!(of(segment(0x10_0000, 0x1000, big), LoadPolicy::Auto), None);
        assert_eq!(of(segment(0x10_0000, 0x1000, big), LoadPolicy::Copy), Some(CopyReason::Asked));
        assert_eq!(
            of(segment(0x10_0000, 0x1000, MAP_THRESHOLD - 1), LoadPolicy::Auto),
            Some(CopyReason::Small)
        );
        assert_eq!(of(segment(0x10_0000, 0x1000, PAGE), LoadPolicy::Map), None);
        assert_eq!(of(segment(0x10_0000, 0x1004, big), LoadPolicy::Map), Some(CopyReason::Unaligned));
        assert_eq!(of(segment(0x10_0010, 0x1010, PAGE), LoadPolicy::Map), Some(CopyReason::NoWholePage));
        assert_eq!(of(segment(0x10_0000, 0, 0), LoadPolicy::Map), Some(CopyReason::NoWholePage));
        assert_eq!(of(segment(u64::MAX - 4, 0xffb, 4), LoadPolicy::Map), Some(CopyReason::NoWholePage));
    }

    proptest! {
        /// The mapped pages are inside the segment, as far from its start in the file as in memory, and leave less than a
        /// page at either end.
        #[test]
        fn whole_pages_and_all_of_them(phys: u64, page in 0_u64..1 << 40, size in 0..(1_u64 << 40)) {
            let segment = segment(phys, page * PAGE + phys % PAGE, size);
            let LoadMethod::Map(part) = segment.load_method(LoadPolicy::Map) else { return Ok(()) };
            let (start, end) = (part.phys.0, part.phys.0 + part.size);
            prop_assert!(start % PAGE == 0 && end % PAGE == 0 && part.file_offset % PAGE == 0 && part.size > 0);
            prop_assert!(start - phys < PAGE && phys + size - end < PAGE);
            prop_assert_eq!(part.file_offset - segment.file_offset, start - phys);
        }
    }
}
