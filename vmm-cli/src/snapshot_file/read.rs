//! Reading a snapshot: nothing of it is believed before its checksum is right.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::diagnostic::{Diagnostic, Location};
use crate::machine_error::with_causes;
use crate::status::Status;
use vmm_core::Gpa;
use vmm_core::PAGE_SIZE;
use vmm_core::encoding;
use vmm_core::machine::error::{Blame, Error};
use vmm_core::snapshot::MemoryImage;
use vmm_core::spec::MachineSpec;

use super::{Description, HEAD, MAGIC, UNCHECKED, VERSION};

const CHUNK: usize = 1 << 20;
const HELP: &str = "take it again, with `vmm-cli snapshot`";

/// A snapshot whose checksum is right.
pub(crate) struct Saved {
    pub(crate) description: Description,
    ranges: Vec<(Gpa, u64)>,
    file: File,
    location: Location,
}

impl Saved {
    /// Opens a snapshot, reads it once from end to end, and stands before its memory.
    ///
    /// # Errors
    /// It cannot be read, is none, is of another version, or is damaged.
    pub(crate) fn open(path: &Path) -> Result<Self, Diagnostic> {
        let location = Location::File(path.display().to_string());
        let file = File::open(path).map_err(|error| {
            let is_missing = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory);
            let status = if is_missing { Status::Configuration } else { Status::Host };
            Diagnostic::error(status, format!("cannot open the snapshot: {error}")).at(location.clone())
        })?;
        Self::read(file, location)
    }

    /// Reads a snapshot as [`Saved::open`] does. `file` is at its start, and `location` names it in messages.
    ///
    /// # Errors
    /// As [`Saved::open`].
    pub(super) fn read(mut file: File, location: Location) -> Result<Self, Diagnostic> {
        let damaged = |message: String| {
            Diagnostic::error(Status::Configuration, message).at(location.clone()).with_help(Some(HELP))
        };
        let unreadable = |error: io::Error| unreadable(&location, &error);
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(damaged("this is not a snapshot: it is not a regular file".to_owned()));
        }
        let size = metadata.len();
        let mut head = Vec::with_capacity(HEAD);
        let length = file.by_ref().take(HEAD as u64).read_to_end(&mut head).map_err(unreadable)?;
        if !head.starts_with(&MAGIC) {
            return Err(damaged("this is not a snapshot: it does not begin as one does".to_owned()));
        }
        let version = half(&head, 8);
        if length >= 12 && version != VERSION {
            return Err(damaged(format!(
                "the snapshot has format {version}, and this vmm-cli reads format {VERSION}"
            )));
        }
        let truncated = || damaged(format!("the snapshot is cut off: {size} bytes are less than it had"));
        if length < HEAD {
            return Err(truncated());
        }
        let (description, ranges) = (number(&head, 16), number(&head, 24));
        let tables = ranges.checked_mul(16).and_then(|bytes| bytes.checked_add(description));
        let start = tables.and_then(|bytes| bytes.checked_add(32)).filter(|start| *start <= size);
        let Some(start) = start else { return Err(truncated()) };

        let mut sum = crc32fast::Hasher::new();
        sum.update(head.get(UNCHECKED..).unwrap_or_default());
        let mut table = vec![0; usize::try_from(start - 32).unwrap_or(usize::MAX)];
        file.read_exact(&mut table).map_err(unreadable)?;
        sum.update(&table);
        let mut buffer = Vec::with_capacity(CHUNK);
        let mut rest = 0_u64;
        while file.by_ref().take(CHUNK as u64).read_to_end(&mut buffer).map_err(unreadable)? != 0 {
            sum.update(&buffer);
            rest = rest.saturating_add(u64::try_from(buffer.len()).unwrap_or(0));
            buffer.clear();
        }
        let (found, wanted) = (sum.finalize(), half(&head, 12));
        let (bytes, list) = table.split_at(usize::try_from(description).unwrap_or(0).min(table.len()));
        let ranges: Vec<(Gpa, u64)> =
            list.chunks_exact(16).map(|entry| (Gpa(number(entry, 0)), number(entry, 8))).collect();
        let memory = ranges.iter().try_fold(0_u64, |sum, (_, size)| sum.checked_add(*size));
        if memory.is_some_and(|memory| rest < memory) {
            return Err(truncated());
        }
        if found != wanted || memory != Some(rest) {
            return Err(damaged(
                "the snapshot is damaged: its checksum is not that of its contents".to_owned(),
            ));
        }
        let description = encoding::from_bytes(bytes)
            .map_err(|_| damaged("the snapshot was written by another version of vmm-cli".to_owned()))?;
        io::Seek::seek(&mut file, io::SeekFrom::Start(start)).map_err(unreadable)?;
        Ok(Self { description, ranges, file, location })
    }

    /// Reads the memory, for a machine with this description.
    ///
    /// # Errors
    /// It has pages where the machine has none, or changed since it was opened.
    pub(crate) fn memory(&self, spec: &MachineSpec) -> Result<MemoryImage, Diagnostic> {
        let image = MemoryImage::empty(spec).map_err(|error| self.unusable(&error))?;
        let mut buffer = Vec::new();
        let mut file = &self.file;
        for &(address, size) in &self.ranges {
            if !size.is_multiple_of(PAGE_SIZE) {
                return Err(self.damaged(&"a range of memory is not made of whole pages"));
            }
            let mut done = 0;
            while done < size {
                let length = usize::try_from(size - done).unwrap_or(CHUNK).min(CHUNK);
                buffer.resize(length, 0);
                file.read_exact(&mut buffer).map_err(|error| {
                    if error.kind() == io::ErrorKind::UnexpectedEof {
                        return self.damaged(&error);
                    }
                    unreadable(&self.location, &error)
                })?;
                image
                    .write(Gpa(address.0.saturating_add(done)), &buffer)
                    .map_err(|error| self.unusable(&error))?;
                done = done.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            }
        }
        Ok(image)
    }

    /// Returns the error for a snapshot that the machine does not accept, or the host cannot read.
    pub(crate) fn unusable(&self, error: &Error) -> Diagnostic {
        let diagnostic = self.damaged(&with_causes(error));
        if error.blame() == Blame::Host {
            Diagnostic { status: Status::Host, ..diagnostic }
        } else {
            diagnostic
        }
    }

    /// Returns the error for a snapshot that cannot be used.
    pub(crate) fn damaged(&self, why: &dyn std::fmt::Display) -> Diagnostic {
        Diagnostic::error(Status::Configuration, format!("the snapshot cannot be used: {why}"))
            .at(self.location.clone())
    }
}

fn unreadable(location: &Location, error: &io::Error) -> Diagnostic {
    Diagnostic::error(Status::Host, format!("cannot read the snapshot: {error}")).at(location.clone())
}

/// The number of 64 bits at a place; 0 behind the end.
fn number(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u64::from_le_bytes)
}

/// The number of 32 bits at a place; 0 behind the end.
fn half(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().map_or(0, u32::from_le_bytes)
}
