//! Files of a block device: a raw image, and an overlay of written blocks.
//!
//! The image is written only if the description says so. Otherwise writes go to an overlay, a sparse file of the image's size
//! with the written blocks and holes elsewhere. Images and overlays are locked (flock(2)), so no two machines write one file,
//! and none reads a file that another one writes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, MemfdFlags, Mode, OFlags, flock, fstat, memfd_create, open};
use rustix::io::Errno;

use super::disk_error::DiskError;
use crate::devices::device::StateMismatch;
use crate::spec::host_file::HostFileError;
use crate::spec::{BlockAccess, BlockSpec};

/// Size of a sector, the unit of requests (5.2.4).
pub(super) const SECTOR: u64 = 512;
/// Size of a block of an overlay: a page, which is also the smallest hole on most file systems.
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;

/// Image of a disk with its overlay.
#[derive(Debug)]
pub(super) struct Disk {
    image: File,
    size: u64,
    layer: Layer,
}

/// Target of writes.
#[derive(Debug)]
enum Layer {
    None,
    Image,
    Overlay { file: File, written: Blocks, lasting: bool },
}

/// Set of the written blocks of an overlay, 64 to an entry, so it takes memory only where the guest wrote.
#[derive(Debug, Default)]
struct Blocks(BTreeMap<u64, u64>);

impl Blocks {
    fn contains(&self, block: u64) -> bool {
        self.0.get(&(block / 64)).is_some_and(|bits| bits >> (block % 64) & 1 != 0)
    }

    fn iter(&self) -> impl Iterator<Item = u64> {
        let bits = |(word, bits): (&u64, &u64)| {
            let (word, bits) = (*word, *bits);
            (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
        };
        self.0.iter().flat_map(bits)
    }

    fn insert(&mut self, block: u64) {
        *self.0.entry(block / 64).or_default() |= 1 << (block % 64);
    }
}

/// Checks the files of a disk without creating any.
///
/// # Errors
/// [`DiskError`].
pub fn check(spec: &BlockSpec) -> Result<(), DiskError> {
    open_image(spec)?;
    match &spec.access {
        BlockAccess::Overlay(path) if path.symlink_metadata().is_ok() => {
            Err(DiskError::OverlayExists { path: path.clone() })
        }
        BlockAccess::Overlay(_) | BlockAccess::ReadOnly | BlockAccess::Temporary | BlockAccess::InPlace => {
            Ok(())
        }
    }
}

fn open_image(BlockSpec { image: file, access }: &BlockSpec) -> Result<(File, u64), DiskError> {
    let path = || file.as_path().to_owned();
    let cannot = |source| DiskError::Open { path: path(), source };
    let writes = *access == BlockAccess::InPlace;
    let image = if writes { file.open(true) } else { file.open_shared() };
    let image = image.map_err(|error| match error {
        HostFileError::Outside { real, directory } => DiskError::Outside { path: path(), real, directory },
        HostFileError::NotRegular => DiskError::NotAFile { path: path() },
        HostFileError::Io(source) => cannot(source),
    })?;
    lock(&image, file.as_path(), writes)?;
    // Not `File::metadata`, whose call takes a path too: the sandbox of a run does not allow it.
    let size = fstat(&image).map_err(|errno| cannot(errno.into()))?.st_size;
    let size = u64::try_from(size).unwrap_or_default();
    if size == 0 || !size.is_multiple_of(SECTOR) {
        return Err(DiskError::Size { path: path(), size });
    }
    Ok((image, size))
}

/// Locks a file while it is open. File systems without locks are accepted.
fn lock(file: &File, path: &Path, writes: bool) -> Result<(), DiskError> {
    let kind =
        if writes { FlockOperation::NonBlockingLockExclusive } else { FlockOperation::NonBlockingLockShared };
    match flock(file, kind) {
        Err(Errno::WOULDBLOCK) => Err(DiskError::InUse { path: path.to_owned() }),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl Disk {
    /// Opens the image and creates the overlay.
    pub(super) fn open(spec: &BlockSpec) -> Result<Self, DiskError> {
        let (image, size) = open_image(spec)?;
        let overlay = |file: File, path: Option<&PathBuf>| {
            let made = file.set_len(size).map(|()| file);
            made.map_err(|source| DiskError::Overlay { path: path.cloned(), source })
        };
        let layer = match &spec.access {
            BlockAccess::ReadOnly => Layer::None,
            BlockAccess::InPlace => Layer::Image,
            BlockAccess::Temporary => {
                let file = temporary().map_err(|source| DiskError::Overlay { path: None, source })?;
                Layer::Overlay { file: overlay(file, None)?, written: Blocks::default(), lasting: false }
            }
            BlockAccess::Overlay(path) => {
                let made = OpenOptions::new().read(true).write(true).create_new(true).open(path);
                let file = made.map_err(|source| {
                    let path = path.clone();
                    if source.kind() == io::ErrorKind::AlreadyExists {
                        DiskError::OverlayExists { path }
                    } else {
                        DiskError::Overlay { path: Some(path), source }
                    }
                })?;
                lock(&file, path, true)?;
                Layer::Overlay { file: overlay(file, Some(path))?, written: Blocks::default(), lasting: true }
            }
        };
        Ok(Self { image, size, layer })
    }

    /// Returns the size in bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Returns true if the disk refuses writes.
    pub(super) const fn is_read_only(&self) -> bool {
        matches!(self.layer, Layer::None)
    }

    /// Reads into `data` from `offset` on.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> io::Result<()> {
        let Layer::Overlay { file, written, .. } = &self.layer else {
            return self.image.read_exact_at(data, offset);
        };
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let in_block = usize::try_from(BLOCK - at % BLOCK).unwrap_or(usize::MAX);
            let (piece, behind) = rest.split_at_mut(in_block.min(rest.len()));
            let source = if written.contains(at / BLOCK) { file } else { &self.image };
            source.read_exact_at(piece, at)?;
            (at, rest) = (at.saturating_add(BLOCK - at % BLOCK), behind);
        }
        Ok(())
    }

    /// Writes `data` from `offset` on, which ends within the disk.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (file, written) = match &mut self.layer {
            Layer::None => return Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Layer::Image => return self.image.write_all_at(data, offset),
            Layer::Overlay { file, written, .. } => (file, written),
        };
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let start = at - at % BLOCK;
            let in_block = usize::try_from(BLOCK - at % BLOCK).unwrap_or(usize::MAX);
            let (piece, behind) = rest.split_at(in_block.min(rest.len()));
            let whole = BLOCK.min(self.size - start.min(self.size));
            if !written.contains(at / BLOCK) && u64::try_from(piece.len()).is_ok_and(|length| length < whole)
            {
                // The first write to this block covers only a part of it: the rest comes from the image.
                let mut block = vec![0; usize::try_from(whole).unwrap_or(0)];
                self.image.read_exact_at(&mut block, start)?;
                file.write_all_at(&block, start)?;
            }
            file.write_all_at(piece, at)?;
            written.insert(at / BLOCK);
            (at, rest) = (start.saturating_add(BLOCK), behind);
        }
        Ok(())
    }

    /// Returns the blocks of a temporary overlay, each after its number; they belong to the machine's state.
    pub(super) fn save(&self) -> Vec<u8> {
        let Layer::Overlay { file, written, lasting: false } = &self.layer else { return Vec::new() };
        let mut bytes = Vec::new();
        for block in written.iter() {
            let mut content = [0; BLOCK_BYTES];
            // The last block may be shorter than a page; unreadable parts are zeros.
            let _ = file.read_at(&mut content, block.saturating_mul(BLOCK));
            bytes.extend(block.to_le_bytes());
            bytes.extend(content);
        }
        bytes
    }

    /// Restores what [`Disk::save`] returned. Blocks that cannot be written keep the image's contents; one that the disk does not
    /// have is refused.
    pub(super) fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let size = self.size;
        let entries = state.chunks_exact(8 + BLOCK_BYTES);
        if !entries.remainder().is_empty() {
            return Err(StateMismatch);
        }
        let Layer::Overlay { file, written, lasting: false } = &mut self.layer else {
            return if state.is_empty() { Ok(()) } else { Err(StateMismatch) };
        };
        let mut blocks = Vec::new();
        for entry in entries {
            let (number, content) = entry.split_first_chunk().ok_or(StateMismatch)?;
            let start = u64::from_le_bytes(*number).checked_mul(BLOCK).filter(|start| *start < size);
            blocks.push((start.ok_or(StateMismatch)?, content));
        }
        *written = Blocks::default();
        for (start, content) in blocks {
            let length = usize::try_from(size - start).unwrap_or(usize::MAX).min(BLOCK_BYTES);
            if file.write_all_at(content.get(..length).unwrap_or_default(), start).is_ok() {
                written.insert(start / BLOCK);
            }
        }
        Ok(())
    }

    /// Makes writes durable in files that are kept (fdatasync(2)).
    pub(super) fn flush(&self) -> io::Result<()> {
        match &self.layer {
            Layer::Image => self.image.sync_data(),
            Layer::Overlay { file, lasting: true, .. } => file.sync_data(),
            Layer::Overlay { lasting: false, .. } | Layer::None => Ok(()),
        }
    }
}

/// Creates an unnamed file: in the directory for temporary files, or in memory if that is not possible.
fn temporary() -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = open(std::env::temp_dir(), flags, Mode::RUSR | Mode::WUSR)
        .or_else(|_| memfd_create("vmm-overlay", MemfdFlags::CLOEXEC))?;
    Ok(File::from(file))
}

/// Returns the serial number of a disk: the name of its file, cut to the length of the field.
pub(super) fn serial(path: &Path) -> [u8; 20] {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_encoded_bytes();
    let mut serial = [0; 20];
    for (byte, letter) in serial.iter_mut().zip(name) {
        *byte = if letter.is_ascii_graphic() { *letter } else { b'_' };
    }
    serial
}
