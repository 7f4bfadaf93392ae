//! The bytes of a file: read, or mapped where the file is large. Shared by all machines that they go into.

use std::ops::Deref;
use std::sync::Arc;

use vmm_core::kvm_sys_wrap::MappedFile;

/// The bytes of a file. Clones share them.
#[derive(Debug, Clone)]
pub(crate) enum FileBytes {
    /// In memory of ours.
    Read(Arc<Vec<u8>>),
    /// In the file, until somebody looks.
    Mapped(MappedFile),
}

impl FileBytes {
    /// The mapping of the file, if there is one.
    pub(crate) const fn mapped(&self) -> Option<&MappedFile> {
        match self {
            Self::Read(_) => None,
            Self::Mapped(file) => Some(file),
        }
    }

    /// Checks that the bytes are those of the file when it was opened.
    ///
    /// # Errors
    /// Somebody changed the file meanwhile.
    pub(crate) fn check(&self) -> Result<(), vmm_core::kvm_sys_wrap::Error> {
        self.mapped().map_or(Ok(()), MappedFile::check)
    }

    /// The bytes alone, copied only where somebody else has them too.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Read(bytes) => Arc::unwrap_or_clone(bytes),
            Self::Mapped(file) => file.bytes().to_vec(),
        }
    }
}

impl From<Vec<u8>> for FileBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Read(Arc::new(bytes))
    }
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Read(bytes) => bytes,
            Self::Mapped(file) => file.bytes(),
        }
    }
}
