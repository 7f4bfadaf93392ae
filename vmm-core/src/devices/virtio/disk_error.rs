//! Errors of the files of a disk.

use std::io;
use std::path::PathBuf;

/// Error of the files of a disk: its image or its overlay.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file of an image or overlay cannot be opened.
    #[error("cannot open the disk image {}", path.display())]
    Open {
        /// Path of the image or overlay.
        path: PathBuf,
        /// Error of the system call.
        source: io::Error,
    },
    /// The image is outside of the directory that it must be in.
    #[error("the disk image {} is outside of {}", path.display(), directory.display())]
    Outside {
        /// Path of the image.
        path: PathBuf,
        /// Path of the image without symbolic links.
        real: PathBuf,
        /// Directory that the image must be inside.
        directory: PathBuf,
    },
    /// The image is a directory, a pipe or a device.
    #[error("the disk image {} is not a regular file", path.display())]
    NotAFile {
        /// Path of the image.
        path: PathBuf,
    },
    /// The image is empty, or ends within a sector.
    #[error("the disk image {} has {size} bytes, which is not a number of 512-byte sectors", path.display())]
    Size {
        /// Path of the image.
        path: PathBuf,
        /// Size of the image in bytes.
        size: u64,
    },
    /// The file is locked by another machine.
    #[error("the disk image {} is in use by another machine", path.display())]
    InUse {
        /// Path of the image or overlay.
        path: PathBuf,
    },
    /// The file for a new overlay exists already.
    #[error("the overlay {} exists already", path.display())]
    OverlayExists {
        /// Path of the overlay.
        path: PathBuf,
    },
    /// The file for an overlay cannot be created.
    #[error("cannot create the overlay{}", path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
    Overlay {
        /// Path of the overlay, if it has one.
        path: Option<PathBuf>,
        /// Error of the system call.
        source: io::Error,
    },
}

impl DiskError {
    /// Returns true if the machine's description is at fault and not the host.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            Self::Outside { .. } | Self::NotAFile { .. } | Self::Size { .. } | Self::OverlayExists { .. } => {
                true
            }
            Self::InUse { .. } | Self::Overlay { .. } => false,
        }
    }
}
