//! How each segment of a file gets into memory: mapped from the file, or copied.

use std::fmt;

use serde::Serialize;
use vmm_core::spec::gpa_range::ByteSize;
use vmm_loader::{MappedPart, Segment, Way};

use super::hex;

/// One segment's way.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct SegmentLoading {
    /// The segment's number.
    segment: usize,
    /// The pages that are mapped; none where all is copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    mapped: Option<MappedExtent>,
    /// Bytes that are copied.
    copied: u64,
    /// Why all is copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

/// Pages that show the file.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MappedExtent {
    start: String,
    size: u64,
    file_offset: String,
}

/// The ways of a file's segments.
pub(super) fn of<'a>(ways: impl Iterator<Item = (&'a Segment, Way)>) -> Vec<SegmentLoading> {
    ways.map(|(segment, way)| {
        let (mapped, because) = match way {
            Way::Map(MappedPart { phys, file_offset, size }) => {
                (Some(MappedExtent { start: hex(phys.0), size, file_offset: hex(file_offset) }), None)
            }
            Way::Copy(because) => (None, Some(because.to_string())),
        };
        let copied = segment.file_size.saturating_sub(mapped.as_ref().map_or(0, |mapped| mapped.size));
        SegmentLoading { segment: segment.index, mapped, copied, because }
    })
    .collect()
}

/// In a line or more: segments that are all copied for one reason share one.
pub(super) fn lines(loading: &[SegmentLoading]) -> Vec<String> {
    if let [first, rest @ ..] = loading
        && let Some(because) = &first.because
        && rest.iter().all(|other| other.because == first.because)
    {
        let reason = if rest.is_empty() { because.clone() } else { because.replacen("it", "each", 1) };
        return vec![format!("copied into memory: {reason}")];
    }
    loading.iter().map(ToString::to_string).collect()
}

impl fmt::Display for SegmentLoading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { segment, mapped, copied, because } = self;
        write!(f, "segment {segment} is ")?;
        match mapped {
            Some(MappedExtent { start, size, file_offset }) => {
                write!(f, "mapped: {} of the file from {file_offset} at {start}", ByteSize(*size))?;
                if *copied > 0 {
                    write!(f, "; {} copied", ByteSize(*copied))?;
                }
                Ok(())
            }
            None => write!(f, "copied: {}", because.as_deref().unwrap_or_default()),
        }
    }
}
