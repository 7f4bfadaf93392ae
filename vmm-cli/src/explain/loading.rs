//! Describes the load method of each segment: mapped from its file, or copied.

use std::fmt;

use serde::Serialize;
use vmm_core::spec::gpa_range::ByteSize;
use vmm_loader::{CopyReason, LoadMethod, MappedPart, Segment};

use super::hex;

/// Load method of a segment.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct SegmentLoading {
    /// Number of the segment.
    segment: usize,
    /// Mapped pages, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    mapped: Option<MappedExtent>,
    /// Number of copied bytes.
    copied: u64,
    /// Reason why the whole segment is copied.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
}

/// Pages that are mapped from the file.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct MappedExtent {
    start: String,
    size: u64,
    file_offset: String,
}

/// Describes the load methods of a file's segments.
pub(super) fn of<'a>(methods: impl Iterator<Item = (&'a Segment, LoadMethod)>) -> Vec<SegmentLoading> {
    methods
        .map(|(segment, way)| {
            let (mapped, because) = match way {
                LoadMethod::Map(MappedPart { phys, file_offset, size, .. }) => {
                    (Some(MappedExtent { start: hex(phys.0), size, file_offset: hex(file_offset) }), None)
                }
                LoadMethod::Copy(CopyReason::Policy) => (None, Some("the configuration wants it".to_owned())),
                LoadMethod::Copy(reason) => (None, Some(reason.to_string())),
            };
            let copied = segment.file_size.saturating_sub(mapped.as_ref().map_or(0, |mapped| mapped.size));
            SegmentLoading { segment: segment.index, mapped, copied, because }
        })
        .collect()
}

/// Formats the load methods. Segments that are all copied for one reason share one line.
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
