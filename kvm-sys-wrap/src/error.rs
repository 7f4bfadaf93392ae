//! What can go wrong between us and the kernel.
//!
//! Each error names the step that failed with its data; what the kernel said is the `source()`. [`Error::help`] says
//! what the user can do, where there is something.

use std::io;
use std::path::PathBuf;

use crate::address::Gpa;
use crate::address_map::Overlap;
use crate::call::Call;

/// A step of the flow failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device file cannot be opened.
    #[error("cannot open {}", path.display())]
    OpenDevice {
        /// The device file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file is there but is not KVM, or not the KVM API that every kernel since 2.6.22 has (api.rst 4.1).
    #[error("{} speaks KVM API version {found}, not 12", path.display())]
    ApiVersion {
        /// The device file.
        path: PathBuf,
        /// What `KVM_GET_API_VERSION` returned.
        found: i32,
    },
    /// The host's KVM lacks something that was asked for.
    #[error("this host's KVM has no {capability}, which is needed {purpose}")]
    MissingCapability {
        /// Its name in the kernel's headers.
        capability: &'static str,
        /// What for.
        purpose: &'static str,
    },
    /// A call failed.
    #[error("{call} failed: {detail}")]
    Call {
        /// Which call.
        call: Call,
        /// Its arguments in words.
        detail: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address cannot be used for `KVM_SET_TSS_ADDR`.
    #[error("the TSS address {address} {problem}")]
    TssAddress {
        /// The address asked for.
        address: Gpa,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A memory slot is not made of whole pages, is empty, or leaves the address space.
    #[error("memory slot {slot} at {address} with {size:#x} bytes {problem}")]
    SlotShape {
        /// The slot's number.
        slot: u32,
        /// Its address.
        address: Gpa,
        /// Its size in bytes.
        size: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The host has not set aside as many huge pages.
    #[error("{} MiB of hugetlb memory: this host has not as many pages of 2 MiB free", size >> 20)]
    HugePages {
        /// Bytes asked for.
        size: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing can be laid over an address where no slot is.
    #[error("there is no memory slot at {address}")]
    NoMemory {
        /// The address.
        address: Gpa,
    },
    /// Somebody changed a file that was mapped.
    #[error("{} {problem} while it was in use", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        problem: &'static str,
    },
    /// There is no slot with that number, or there is one already.
    #[error("memory slot {slot} {problem}")]
    SlotNumber {
        /// The slot's number.
        slot: u32,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Two things would lie on the same guest-physical addresses.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// The vCPU number is beyond what the host supports.
    #[error("vCPU {id} is not possible: this host's KVM allows numbers below {limit}")]
    VcpuId {
        /// The number asked for.
        id: u64,
        /// The first impossible one (`KVM_CAP_MAX_VCPU_ID`).
        limit: usize,
    },
    /// The signal or timer that stops a vCPU could not be set up.
    #[error("cannot set up the signal that stops the guest")]
    Kick {
        /// What the kernel said.
        source: io::Error,
    },
    /// An answer was given to an exit that asked for none, or one of the wrong length.
    #[error("the vCPU waits for {expected} bytes of input, {given} were given")]
    Reply {
        /// Bytes that the exit asked for.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
}

impl Error {
    /// What the user can do about it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        match self {
            Self::OpenDevice { path, source } => open_help(path.display(), source),
            Self::Call { call: Call::Mmap, .. } => Some("ask for less guest memory".to_owned()),
            Self::HugePages { size, .. } => Some(format!(
                "reserve them as root: `sysctl vm.nr_hugepages={}` (`grep Huge /proc/meminfo` shows what there is), or take \
                 `memory.backing = \"anonymous\"` with `huge-pages = true`",
                size.div_ceil(2 << 20)
            )),
            Self::FileChanged { .. } => Some(
                "run it again when nobody is writing to the file; a program that builds it should write a new file and \
                 rename it"
                    .to_owned(),
            ),
            Self::Call { .. }
            | Self::NoMemory { .. }
            | Self::ApiVersion { .. }
            | Self::MissingCapability { .. }
            | Self::TssAddress { .. }
            | Self::SlotShape { .. }
            | Self::SlotNumber { .. }
            | Self::Overlap(_)
            | Self::VcpuId { .. }
            | Self::Kick { .. }
            | Self::Reply { .. } => None,
        }
    }
}

fn open_help(path: impl std::fmt::Display, source: &io::Error) -> Option<String> {
    match source.raw_os_error()? {
        libc::ENOENT => Some(
            "turn on virtualization in the firmware and load the module: \
             `modprobe kvm_intel` or `modprobe kvm_amd`; inside a virtual machine, turn on nested virtualization"
                .to_owned(),
        ),
        libc::EACCES | libc::EPERM => Some(format!(
            "add yourself to the group that owns {path} (`sudo usermod -aG kvm $USER`, then log in again)"
        )),
        libc::ENODEV | libc::ENXIO => {
            Some("the KVM module is not loaded: `modprobe kvm_intel` or `modprobe kvm_amd`".to_owned())
        }
        _ => None,
    }
}

/// The result of a step of the flow.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Turns an I/O error of a call into ours.
pub(crate) fn call_failed(call: Call, detail: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let detail = detail.into();
    move |source| Error::Call { call, detail, source }
}
