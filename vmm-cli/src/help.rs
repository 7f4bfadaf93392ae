//! Advice for users on errors of the libraries, in the words of this program's configuration and options.

use std::fmt::Display;
use std::io;

use rustix::io::Errno;
use vmm_core::kvm_sys_wrap::{Call, Error as KvmError};
use vmm_core::machine::error::Error;

/// Returns what the user can do about an error of a machine, if anything.
pub(crate) fn for_machine(error: &Error) -> Option<String> {
    match error {
        Error::Kvm(error) => for_kvm(error),
        Error::Image(error) => error.downcast_ref::<KvmError>().and_then(for_kvm),
        Error::ModeDropped { .. } | Error::ModeRefused { .. } | Error::FeatureMissing { .. } => Some(
            "`vmm-cli doctor` shows what works here; an ordinary KVM host (VT-x or AMD-V) does all modes"
                .to_owned(),
        ),
        Error::Disk(error) => error.help(),
        Error::NoBreakpoint { .. } | Error::NoExitCount => {
            Some("stop it after a time instead, with --after".to_owned())
        }
        Error::Layout(_)
        | Error::State(_)
        | Error::Bus(_)
        | Error::Snapshot { .. }
        | Error::Restore(_)
        | Error::Save(_)
        | Error::DeviceNotSupplied { .. }
        | Error::TooManyVirtioDevices { .. }
        | Error::NoDebugging { .. }
        | Error::Console(_)
        | Error::Clock(_)
        | Error::Table { .. } => None,
    }
}

/// Returns what the user can do about an error of a call to KVM, if anything.
pub(crate) fn for_kvm(error: &KvmError) -> Option<String> {
    match error {
        KvmError::OpenDevice { path, source } => for_open(path.display(), source),
        KvmError::Call { call: Call::Mmap, .. } => Some("ask for less guest memory".to_owned()),
        KvmError::HugePages { size, .. } => Some(format!(
            "reserve them as root: `sysctl vm.nr_hugepages={}` (`grep Huge /proc/meminfo` shows what there is), or take \
             `memory.backing = \"anonymous\"` with `huge-pages = true`",
            size.div_ceil(2 << 20)
        )),
        KvmError::FileChanged { .. } => Some(
            "run it again when nobody is writing to the file; a program that builds it should write a new file and \
             rename it"
                .to_owned(),
        ),
        KvmError::Call { .. }
        | KvmError::NoMemory { .. }
        | KvmError::ApiVersion { .. }
        | KvmError::MissingCapability { .. }
        | KvmError::TssAddress { .. }
        | KvmError::SlotShape { .. }
        | KvmError::SlotNumber { .. }
        | KvmError::Overlap(_)
        | KvmError::VcpuId { .. }
        | KvmError::Kick { .. }
        | KvmError::Reply { .. } => None,
        // A variant of a later version.
        _ => None,
    }
}

fn for_open(path: impl Display, source: &io::Error) -> Option<String> {
    match Errno::from_io_error(source)? {
        Errno::NOENT => Some(
            "turn on virtualization in the firmware and load the module: \
             `modprobe kvm_intel` or `modprobe kvm_amd`; inside a virtual machine, turn on nested virtualization"
                .to_owned(),
        ),
        Errno::ACCESS | Errno::PERM => Some(format!(
            "add yourself to the group that owns {path} (`sudo usermod -aG kvm $USER`, then log in again)"
        )),
        Errno::NODEV | Errno::NXIO => {
            Some("the KVM module is not loaded: `modprobe kvm_intel` or `modprobe kvm_amd`".to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vmm_core::Kvm;

    use super::*;

    #[test]
    fn a_missing_device_has_advice_about_the_module() {
        let error = Kvm::open_with(Path::new("/nonexistent/kvm"), None).unwrap_err();
        assert!(for_kvm(&error).unwrap().contains("modprobe"));
    }

    #[test]
    fn huge_pages_are_counted_in_units_of_two_mebibytes() {
        let error = KvmError::HugePages { size: 1 << 40, source: io::ErrorKind::OutOfMemory.into() };
        assert!(for_kvm(&error).unwrap().contains("vm.nr_hugepages=524288"));
    }
}
