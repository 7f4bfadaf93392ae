//! Load strategy of a segment: mapped from its file, or copied.
//!
//! Mapping costs a page fault for each page that the guest touches; copying costs the copy before the guest runs. Only
//! whole pages can be mapped, and only if file offset and physical address are congruent modulo the page size, as linkers
//! arrange it (gABI, "Program Loading"). Partial pages at both ends are copied. This module decides; it maps nothing.

use std::fmt;

use vm_memory::GuestAddress;

use crate::segment::Segment;

const PAGE_SIZE: u64 = 4096;

/// Minimum number of bytes in the file for a segment to be mapped by [`LoadPolicy::Auto`]. Mapping costs as much as copying
/// about 32 MiB.
pub const MAP_THRESHOLD: u64 = 32 << 20;

/// Policy that decides which segments are mapped from the file and which are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[cfg_attr(
    feature = "schemars",
    derive(schemars::JsonSchema),
    schemars(rename = "Loading", description = "Method of loading files into guest memory.")
)]
#[non_exhaustive]
pub enum LoadPolicy {
    /// Segments of at least 32 MiB are mapped, smaller ones copied.
    #[default]
    #[cfg_attr(feature = "schemars", schemars(description = "Map large files, copy small ones."))]
    Auto,
    /// Everything is copied, so that the files may change while the guest runs.
    #[cfg_attr(feature = "schemars", schemars(description = "Copy everything before the guest runs."))]
    Copy,
    /// All whole pages are mapped, in segments of any size.
    #[cfg_attr(feature = "schemars", schemars(description = "Map all whole pages."))]
    Map,
}

/// Method by which a segment gets into memory.
///
/// Exhaustive: a user of the plan has to carry out each method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoadMethod {
    /// Whole pages of the segment are mapped, and the rest of it is copied.
    Map(MappedPart),
    /// The whole segment is copied, for the given reason.
    Copy(CopyReason),
}

/// Whole pages of a segment whose bytes are all in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MappedPart {
    /// First guest-physical address, a multiple of 4 KiB.
    pub phys: GuestAddress,
    /// Offset of the first byte in the file, a multiple of 4 KiB.
    pub file_offset: u64,
    /// Size in bytes, a multiple of 4 KiB and not 0.
    pub size: u64,
}

/// Reason why a segment is copied and not mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CopyReason {
    /// Segment that is smaller than the threshold for mapping ([`MAP_THRESHOLD`]).
    Small,
    /// Policy of the caller to copy everything ([`LoadPolicy::Copy`]).
    Policy,
    /// File offset and physical address that are not congruent modulo 4 KiB.
    Unaligned,
    /// Segment that contains no whole page.
    NoWholePage,
    /// Bytes that do not come from a mapped file.
    NoMapping,
    /// Guest memory that is shared or consists of huge pages.
    Backing,
    /// Segment that spans several memory regions.
    SeveralRegions,
}

/// Writes the reason as a clause about the segment: `it is small`.
impl fmt::Display for CopyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Small => "it is small",
            Self::Policy => "the load policy is to copy",
            Self::Unaligned => "its offset in the file and its address differ in the lowest 12 bits",
            Self::NoWholePage => "it fills no page",
            Self::NoMapping => "its file is small, and read",
            Self::Backing => "the memory there is shared or made of huge pages",
            Self::SeveralRegions => "it lies in several regions of memory",
        })
    }
}

impl Segment {
    /// Chooses how the segment gets into private memory from a mapped file.
    #[must_use]
    pub fn load_method(&self, policy: LoadPolicy) -> LoadMethod {
        match policy {
            LoadPolicy::Copy => return LoadMethod::Copy(CopyReason::Policy),
            LoadPolicy::Auto if self.file_size < MAP_THRESHOLD => return LoadMethod::Copy(CopyReason::Small),
            LoadPolicy::Auto | LoadPolicy::Map => {}
        }
        if self.phys.0 % PAGE_SIZE != self.file_offset % PAGE_SIZE {
            return LoadMethod::Copy(CopyReason::Unaligned);
        }
        self.whole_pages().map_or(LoadMethod::Copy(CopyReason::NoWholePage), LoadMethod::Map)
    }

    /// Returns true if `part` is the part of this segment that can be mapped.
    pub(crate) fn has_mapped_part(&self, part: &MappedPart) -> bool {
        self.whole_pages() == Some(*part)
    }

    fn whole_pages(&self) -> Option<MappedPart> {
        let start = self.phys.0.checked_next_multiple_of(PAGE_SIZE)?;
        let end = self.phys.0.checked_add(self.file_size)? / PAGE_SIZE * PAGE_SIZE;
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
        let big = MAP_THRESHOLD + PAGE_SIZE;
        let reason = |segment: Segment, policy| match segment.load_method(policy) {
            LoadMethod::Copy(reason) => Some(reason),
            LoadMethod::Map(_) => None,
        };
        let (auto, copy, map) = (LoadPolicy::Auto, LoadPolicy::Copy, LoadPolicy::Map);
        assert_eq!(reason(segment(0x10_0000, 0x1000, big), auto), None);
        assert_eq!(reason(segment(0x10_0000, 0x1000, big), copy), Some(CopyReason::Policy));
        assert_eq!(reason(segment(0x10_0000, 0x1000, MAP_THRESHOLD - 1), auto), Some(CopyReason::Small));
        assert_eq!(reason(segment(0x10_0000, 0x1000, PAGE_SIZE), map), None);
        assert_eq!(reason(segment(0x10_0000, 0x1004, big), map), Some(CopyReason::Unaligned));
        assert_eq!(reason(segment(0x10_0010, 0x1010, PAGE_SIZE), map), Some(CopyReason::NoWholePage));
        assert_eq!(reason(segment(0x10_0000, 0, 0), map), Some(CopyReason::NoWholePage));
        assert_eq!(reason(segment(u64::MAX - 4, 0xffb, 4), map), Some(CopyReason::NoWholePage));
    }

    proptest! {
        /// The mapped pages are inside the segment, have the same distance from its start in file and memory, and leave
        /// less than a page at either end.
        #[test]
        fn whole_pages_and_all_of_them(phys: u64, page in 0_u64..1 << 40, size in 0..(1_u64 << 40)) {
            let segment = segment(phys, page * PAGE_SIZE + phys % PAGE_SIZE, size);
            let LoadMethod::Map(part) = segment.load_method(LoadPolicy::Map) else { return Ok(()) };
            let (start, end) = (part.phys.0, part.phys.0 + part.size);
            prop_assert!(start % PAGE_SIZE == 0 && end % PAGE_SIZE == 0);
            prop_assert!(part.file_offset % PAGE_SIZE == 0 && part.size > 0);
            prop_assert!(start - phys < PAGE_SIZE && phys + size - end < PAGE_SIZE);
            prop_assert_eq!(part.file_offset - segment.file_offset, start - phys);
        }
    }
}
