//! Writing a snapshot: the head with its checksum last, since that is known then.

use std::io::{self, Seek, SeekFrom, Write};

use crate::diagnostic::Diagnostics;
use crate::status::Status;
use vmm_core::Gpa;
use vmm_core::encoding;
use vmm_core::machine::error::Error;
use vmm_core::snapshot::Snapshot;

use super::{Description, HEAD, MAGIC, VERSION};
use crate::output_file::OutputFile;

/// How much memory is written at once.
const CHUNK: u64 = 1 << 20;

/// Writes `snapshot`. The number of bytes.
///
/// # Errors
/// The file's, or the host's where the memory cannot be read.
pub(crate) fn write(
    snapshot: &Snapshot,
    description: &Description,
    file: &mut OutputFile,
) -> Result<u64, Diagnostics> {
    let core = |error: Error| -> Diagnostics {
        crate::diagnostic::Diagnostic::error(
            Status::Host,
            format!("cannot read guest memory: {}", crate::machine_error::with_causes(&error)),
        )
        .into()
    };
    let memory = snapshot.memory();
    let ranges = memory.ranges().map_err(core)?;
    let description =
        encoding::to_bytes(description).map_err(|error| file.write_error(&io::Error::other(error)))?;

    let mut checked = Vec::new();
    checked.extend(u64::try_from(description.len()).unwrap_or(u64::MAX).to_le_bytes());
    checked.extend(u64::try_from(ranges.len()).unwrap_or(u64::MAX).to_le_bytes());
    checked.extend(&description);
    for (address, size) in &ranges {
        checked.extend(address.0.to_le_bytes());
        checked.extend(size.to_le_bytes());
    }
    let mut sum = crc32fast::Hasher::new();
    let mut total = u64::try_from(super::UNCHECKED).unwrap_or(0);
    let mut put = |file: &mut OutputFile, bytes: &[u8]| {
        sum.update(bytes);
        total = total.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
        file.file().write_all(bytes)
    };
    // Its place is kept by zeros until it is known.
    file.file().write_all(&[0; super::UNCHECKED]).map_err(|error| file.write_error(&error))?;
    put(file, &checked).map_err(|error| file.write_error(&error))?;
    let mut buffer = Vec::new();
    for (address, size) in ranges {
        let mut done = 0;
        while done < size {
            let length = CHUNK.min(size - done);
            buffer.resize(usize::try_from(length).unwrap_or(0), 0);
            memory.read(Gpa(address.0.saturating_add(done)), &mut buffer).map_err(core)?;
            put(file, &buffer).map_err(|error| file.write_error(&error))?;
            done += length;
        }
    }
    let sum = sum.finalize();
    let mut head = Vec::with_capacity(HEAD);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(sum.to_le_bytes());
    let written = file.file().seek(SeekFrom::Start(0)).and_then(|_| file.file().write_all(&head));
    written.map_err(|error| file.write_error(&error))?;
    Ok(total)
}
