//! Errors of the files of a disk.

use std::io;
use std::path::PathBuf;

use super::disk::SECTOR;

/// A disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The image cannot be opened.
    #[error("cannot open the disk image {}", path.display())]
    Open {
        /// Path of the file.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The image is a directory, a pipe or a device.
    #[error("the disk image {} is not a regular file", path.display())]
    NotAFile {
        /// Path of the file.
        path: PathBuf,
    },
    /// The image is empty, or ends within a sector.
    #[error("the disk image {} has {size} bytes, which is not a number of 512-byte sectors", path.display())]
    Size {
        /// Path of the file.
        path: PathBuf,
        /// Size in bytes.
        size: u64,
    },
    /// The file is locked by another machine.
    #[error("the disk image {} is in use by another machine", path.display())]
    InUse {
        /// Path of the file.
        path: PathBuf,
    },
    /// The overlay file exists already.
    #[error("the overlay {} exists already", path.display())]
    OverlayExists {
        /// Path of the file.
        path: PathBuf,
    },
    /// The overlay cannot be created.
    #[error("cannot create the overlay{}", path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Overlay {
        /// Path of the overlay, if it has one.
        path: Option<PathBuf>,
        /// Error of the system call.
        source: io::Error,
    },
}

impl DiskError {
    /// Returns true if the machine's description is to blame and not the host.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotAFile { .. } | Self::Size { .. } | Self::OverlayExists { .. } => true,
            Self::InUse { .. } | Self::Overlay { .. } => false,
        }
    }

    /// Returns advice for the user.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Size { path, size } => {
                let sectors = size.div_ceil(SECTOR).max(1).saturating_mul(SECTOR);
                format!("make it whole: `truncate --size {sectors} {}`", path.display())
            }
            Self::OverlayExists { .. } => {
                "an overlay is never overwritten: remove it, or name another".to_owned()
            }
            Self::InUse { .. } => "with an overlay of its own each machine can use the same image".to_owned(),
            Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "create it, such as with `truncate --size 64M FILE`, or correct the path".to_owned()
            }
            Self::Open { .. } | Self::NotAFile { .. } | Self::Overlay { .. } => return None,
        })
    }
}
