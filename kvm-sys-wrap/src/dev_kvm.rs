//! Step 1: open `/dev/kvm` and make sure that it speaks API version 12 (`KVM_GET_API_VERSION`).
//!
//! Everything else starts from the descriptor this gives: the extension table is in `capability.rs`, the CPUID that
//! the host can offer in `cpuid.rs`, and `KVM_CREATE_VM` in `create_vm.rs`.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::call::Call;
use crate::error::{Error, Result};
use crate::observe::{CallObserver, Observed};

/// The version that every kernel since 2.6.22 has; api.rst 4.1 says to refuse any other.
const API_VERSION: i32 = 12;

/// The open KVM subsystem. Clones share one descriptor.
#[derive(Debug, Clone)]
pub struct Kvm {
    fd: Arc<kvm_ioctls::Kvm>,
    observed: Observed,
}

impl Kvm {
    /// The device file on every Linux.
    pub const DEVICE: &'static str = "/dev/kvm";

    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`Error::OpenDevice`] or [`Error::ApiVersion`].
    pub fn open() -> Result<Self> {
        Self::open_with(Path::new(Self::DEVICE), None)
    }

    /// Opens another device file, or has every call observed.
    ///
    /// # Errors
    /// [`Error::OpenDevice`] or [`Error::ApiVersion`].
    pub fn open_with(path: &Path, observer: Option<Arc<dyn CallObserver>>) -> Result<Self> {
        let observed = Observed::new(observer);
        let fd = observed
            .call(Call::OpenDevKvm, format_args!("O_RDWR | O_CLOEXEC"), || {
                let c_path = CString::new(path.as_os_str().as_bytes())
                    .map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
                kvm_ioctls::Kvm::new_with_path(c_path).map_err(io::Error::from)
            })
            .map_err(|source| Error::OpenDevice { path: path.to_owned(), source })?;
        // Any file can be opened: what is not KVM answers -1 (ENOTTY), which is not 12 either.
        let found = observed
            .call(Call::GetApiVersion, format_args!(""), || Ok::<_, io::Error>(fd.get_api_version()))
            .unwrap_or(-1);
        if found != API_VERSION {
            return Err(Error::ApiVersion { path: path.to_owned(), found });
        }
        Ok(Self { fd: Arc::new(fd), observed })
    }

    pub(crate) fn fd(&self) -> &kvm_ioctls::Kvm {
        &self.fd
    }

    pub(crate) fn observed(&self) -> &Observed {
        &self.observed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_named() {
        let error = Kvm::open_with(Path::new("/nonexistent/kvm"), None).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/kvm");
        assert!(error.help().unwrap().contains("modprobe"));
    }

    #[test]
    fn a_file_that_is_not_kvm_is_refused() {
        let error = Kvm::open_with(Path::new("/dev/null"), None).unwrap_err();
        assert_eq!(error.to_string(), "/dev/null speaks KVM API version -1, not 12");
    }
}
