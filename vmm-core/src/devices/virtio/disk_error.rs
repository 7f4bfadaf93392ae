//! What can be wrong with the files of a disk, whose fault that is, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::disk::SECTOR;

/// A disk image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be opened.
    #[error("cannot open the disk image {}", path.display())]
    Open {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("the disk image {} is not a regular file", path.display())]
    NotAFile {
        /// Its path.
        path: PathBuf,
    },
    /// It is empty, or ends within a sector.
    #[error("the disk image {} has {size} bytes, which is not a number of 512-byte sectors", path.display())]
    Size {
        /// Its path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Another machine has it.
    #[error("the disk image {} is in use by another machine", path.display())]
    InUse {
        /// Its path.
        path: PathBuf,
    },
    /// A file is where the overlay is to be.
    #[error("the overlay {} exists already", path.display())]
    OverlayExists {
        /// Its path.
        path: PathBuf,
    },
    /// The overlay cannot be made.
    #[error("cannot create the overlay{}", path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Overlay {
        /// Its path, if it has one.
        path: Option<PathBuf>,
        /// What the system said.
        source: io::Error,
    },
}

impl DiskError {
    /// Whether the description of the machine is to blame, and not the host.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::NotAFile { .. } | Self::Size { .. } | Self::OverlayExists { .. } => true,
            Self::InUse { .. } | Self::Overlay { .. } => false,
        }
    }

    /// What the user can do about it.
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
