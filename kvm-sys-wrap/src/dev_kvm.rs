//! Step 1: open `/dev/kvm`, check for API version 12 (`KVM_GET_API_VERSION`), and ask for capabilities
//! (`KVM_CHECK_EXTENSION`; the table of them is in `capability.rs`).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use crate::call::Call;
use crate::capability::Capability;
use crate::error::{Error, Result, call_failed};
use crate::observe::{CallObserver, Dispatcher};
use crate::vm_pool::VmPool;

/// Version of every kernel since 2.6.22; api.rst 4.1 says to refuse all others.
const API_VERSION: i32 = 12;

/// KVM subsystem of the host: an open `/dev/kvm`. Clones share one descriptor.
///
/// The methods are in the files of their calls: `dev_kvm.rs`, `create_vm.rs`, `cpuid.rs`, `msr.rs` (the list of MSRs), `debug.rs`
/// (a capability of debugging).
#[derive(Debug, Clone)]
pub struct Kvm {
    fd: Arc<kvm_ioctls::Kvm>,
    dispatcher: Dispatcher,
    pool: Arc<VmPool>,
}

impl Kvm {
    /// Path of KVM's device file, `/dev/kvm`.
    pub const DEVICE: &'static str = "/dev/kvm";

    /// Opens `/dev/kvm` and checks the API version (`KVM_GET_API_VERSION`, api.rst 4.1).
    ///
    /// # Errors
    /// [`Error::OpenDevice`] or [`Error::ApiVersion`].
    pub fn open() -> Result<Self> {
        Self::open_with(Path::new(Self::DEVICE), None)
    }

    /// Opens a device file and checks the API version (`KVM_GET_API_VERSION`, api.rst 4.1). `observer` is called after each call
    /// that is made on this subsystem, its VMs and their vCPUs.
    ///
    /// # Errors
    /// [`Error::OpenDevice`] or [`Error::ApiVersion`].
    pub fn open_with(path: &Path, observer: Option<Arc<dyn CallObserver>>) -> Result<Self> {
        let dispatcher = Dispatcher::new(observer);
        let fd = dispatcher
            .call(Call::OpenDevKvm, format_args!("O_RDWR | O_CLOEXEC"), || {
                let c_path = CString::new(path.as_os_str().as_bytes())
                    .map_err(|_| io::Error::from_raw_os_error(libc::ENOENT))?;
                kvm_ioctls::Kvm::new_with_path(c_path).map_err(io::Error::from)
            })
            .map_err(|source| Error::OpenDevice { path: path.to_owned(), source })?;
        // Any file can be opened: one that is not KVM fails with ENOTTY.
        let found = dispatcher
            .call(Call::GetApiVersion, format_args!(""), || match fd.get_api_version() {
                -1 => Err(io::Error::last_os_error()),
                version => Ok(version),
            })
            .map_err(call_failed(Call::GetApiVersion, path.display().to_string()))?;
        if found != API_VERSION {
            return Err(Error::ApiVersion { path: path.to_owned(), found });
        }
        Ok(Self { fd: Arc::new(fd), dispatcher, pool: Arc::default() })
    }

    /// Returns the value of a capability (`KVM_CHECK_EXTENSION`, api.rst 4.4): 0 if the host lacks it, otherwise 1 or a number
    /// with a meaning of its own.
    #[must_use]
    pub fn capability(&self, capability: Capability) -> i32 {
        self.dispatcher()
            .call(Call::CheckExtension, format_args!("{}", capability.name()), || {
                Ok::<_, io::Error>(self.fd().check_extension_int(capability.cap()))
            })
            .map_or(0, |value| value.max(0))
    }

    /// Checks that the host has a capability (`KVM_CHECK_EXTENSION`, api.rst 4.4).
    ///
    /// # Errors
    /// [`Error::MissingCapability`].
    pub fn require(&self, capability: Capability) -> Result<()> {
        if self.capability(capability) > 0 { Ok(()) } else { Err(Error::MissingCapability { capability }) }
    }

    /// Returns a clone without observer: later calls on it, on its VMs and their vCPUs are not reported.
    #[must_use]
    pub fn unobserved(&self) -> Self {
        Self { dispatcher: Dispatcher::default(), ..self.clone() }
    }

    /// Idle VMs, shared by all clones.
    pub(crate) fn pool(&self) -> &Arc<VmPool> {
        &self.pool
    }

    pub(crate) fn fd(&self) -> &kvm_ioctls::Kvm {
        &self.fd
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.dispatcher
    }
}

impl AsFd for Kvm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the kvm_ioctls value, which `self` holds.
        unsafe { BorrowedFd::borrow_raw(self.fd.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_named() {
        let error = Kvm::open_with(Path::new("/nonexistent/kvm"), None).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nonexistent/kvm");
    }

    #[test]
    #[cfg_attr(miri, ignore = "ioctl")]
    fn a_file_that_is_not_kvm_is_refused() {
        let error = Kvm::open_with(Path::new("/dev/null"), None).unwrap_err();
        assert_eq!(error.to_string(), "KVM_GET_API_VERSION failed: /dev/null");
    }
}
