//! Errors of the calls and of the checks before them.
//!
//! Each error names the step that failed, with its data; the kernel's error is the `source()`. Nothing here says what a user
//! could do about it: that depends on the program.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::address::Gpa;
use crate::address_map::Overlap;
use crate::call::Call;
use crate::capability::Capability;

/// Failure of a system call of this crate, or arguments that the crate refuses. Variants may be added in any release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device file cannot be opened.
    #[error("cannot open {}", path.display())]
    OpenDevice {
        /// Path of the device file that cannot be opened.
        path: PathBuf,
        /// Error of `open(2)`.
        source: io::Error,
    },
    /// The file has not the KVM API that every kernel since 2.6.22 has (api.rst 4.1).
    #[error("{} speaks KVM API version {found}, not 12", path.display())]
    ApiVersion {
        /// Path of the file that was opened as KVM's device file.
        path: PathBuf,
        /// Result of `KVM_GET_API_VERSION`.
        found: i32,
    },
    /// The host's KVM lacks a capability that the call needs.
    #[error("this host's KVM has no {}, which is needed {}", capability.name(), capability.purpose())]
    MissingCapability {
        /// Capability that is missing.
        capability: Capability,
    },
    /// A system call failed.
    #[error("{call} failed: {detail}")]
    Call {
        /// System call that failed.
        call: Call,
        /// Arguments of the call as text.
        detail: String,
        /// Error that the kernel returned.
        source: io::Error,
    },
    /// The address cannot be used for `KVM_SET_TSS_ADDR`.
    #[error("the TSS address {address} {problem}")]
    TssAddress {
        /// Guest-physical address that was given for the three pages.
        address: Gpa,
        /// Reason why the address was refused.
        problem: TssAddressProblem,
    },
    /// A memory slot, or a range inside of it, has a size or address that is not possible.
    #[error("memory slot {slot} at {address} with {size:#x} bytes {problem}")]
    SlotShape {
        /// Number of the memory slot.
        slot: u32,
        /// Guest-physical address of the slot or range.
        address: Gpa,
        /// Size of the slot or range in bytes.
        size: u64,
        /// Reason why size or address are not possible.
        problem: SlotShapeProblem,
    },
    /// The host has not as many free huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).
    #[error("{} MiB of hugetlb memory: this host has not as many pages of 2 MiB free", size >> 20)]
    HugePages {
        /// Size of the requested memory in bytes.
        size: u64,
        /// Error of `mmap(2)`.
        source: io::Error,
    },
    /// The slots of the VM are larger than RAM and swap of the host, and overcommit is not allowed
    /// ([`Slot::overcommit`](crate::Slot::overcommit)).
    #[error("{} MiB of guest memory: this host has {} MiB of RAM and swap", requested >> 20, available >> 20)]
    Overcommit {
        /// Size of all slots of the VM together, in bytes.
        requested: u64,
        /// Size of RAM and swap of the host together, in bytes.
        available: u64,
    },
    /// No memory slot contains the guest-physical address.
    #[error("there is no memory slot at {address}")]
    NoMemory {
        /// Guest-physical address without a slot.
        address: Gpa,
    },
    /// A file changed while it was mapped.
    #[error("{} {change} while it was in use", path.display())]
    FileChanged {
        /// Path of the file that changed.
        path: PathBuf,
        /// Kind of the change: truncated, written, or unreadable.
        change: FileChange,
    },
    /// The slot number cannot be used for the call.
    #[error("memory slot {slot} {problem}")]
    SlotNumber {
        /// Number of the memory slot.
        slot: u32,
        /// Reason why the number cannot be used.
        problem: SlotNumberProblem,
    },
    /// Two ranges of guest-physical addresses overlap.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// The vCPU number is beyond the host's maximum.
    #[error("vCPU {id} is not possible: this host's KVM allows numbers below {limit}")]
    VcpuId {
        /// Number that was given for the vCPU.
        id: u64,
        /// The first number that the host refuses (`KVM_CAP_MAX_VCPU_ID`).
        limit: usize,
    },
    /// The VM of the vCPU was released ([`Vm::release`](crate::Vm::release)): another machine may use it.
    #[error("vCPU {vcpu} cannot run: its VM was released")]
    Released {
        /// Number of the vCPU.
        vcpu: u64,
    },
    /// The signal or timer that makes `KVM_RUN` return could not be set up.
    #[error("cannot set up the signal that stops the guest")]
    Kick {
        /// Error of the system call, such as `sigaction(2)` or `timer_create(2)`.
        source: io::Error,
    },
    /// The input given for an exit is not what the exit asked for ([`Vcpu::complete_io`](crate::Vcpu::complete_io)).
    #[error("the vCPU waits for {expected} bytes of input, {given} were given")]
    Reply {
        /// Number of bytes that the exit asked for; 0 if it asked for none.
        expected: usize,
        /// Number of bytes that the caller gave.
        given: usize,
    },
}

impl Error {
    /// Returns the error number that the kernel returned, if the error is that of a system call.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        let source = std::error::Error::source(self)?;
        source.downcast_ref::<io::Error>()?.raw_os_error()
    }
}

/// Declares an enum of reasons with their texts.
macro_rules! reasons {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

reasons! {
    /// Reason why an address cannot be used for `KVM_SET_TSS_ADDR` ([`Error::TssAddress`]).
    TssAddressProblem {
        /// The address is not a multiple of 4 KiB.
        Unaligned = "is not a multiple of 4 KiB",
        /// The three pages do not end below 4 GiB.
        TooHigh = "does not leave room for three pages below 4 GiB",
    }
}

reasons! {
    /// Reason why the size or address of a slot or range is not possible ([`Error::SlotShape`]).
    SlotShapeProblem {
        /// The size of the slot or range is 0.
        Empty = "is empty",
        /// The address or size of the slot is not a multiple of 4 KiB.
        Unaligned = "is not made of whole 4 KiB pages",
        /// The slot or range would end beyond 2^64.
        OutsideAddressSpace = "leaves the address space",
        /// The size of the slot is not a multiple of 2 MiB, which [`SlotBacking::Hugetlb`](crate::SlotBacking::Hugetlb) needs.
        NotHugePages = "is not made of whole 2 MiB pages, as hugetlb memory is",
        /// The offset of the slot in its backing file is not a multiple of 4 KiB
        /// ([`SlotBacking::CopyOf`](crate::SlotBacking::CopyOf)).
        BackingOffset = "does not begin at a page of its file",
        /// The backing file ends before the slot does ([`SlotBacking::CopyOf`](crate::SlotBacking::CopyOf)).
        BackingTooSmall = "is larger than what it is a copy of",
        /// The offset or size of a file mapping is not a multiple of 4 KiB, or the size is 0
        /// ([`FileRange`](crate::FileRange)).
        FileRangeUnaligned = "is laid over with what are not whole pages of a file",
        /// The range of a file mapping ends beyond the file ([`FileRange`](crate::FileRange)).
        FileRangeTooLarge = "is laid over with more than the file has",
        /// The address for a file mapping is not a multiple of 4 KiB ([`FileRange`](crate::FileRange)).
        FileRangeAddress = "is laid over with a file from the middle of a page",
        /// The slot ends before the file mapping does ([`FileRange`](crate::FileRange)).
        SmallerThanFileRange = "is too small for the file",
        /// The slot ends before the range to discard does.
        SmallerThanDiscard = "ends before what is to be discarded",
    }
}

reasons! {
    /// Reason why a slot number cannot be used for a call ([`Error::SlotNumber`]).
    SlotNumberProblem {
        /// A slot with the number exists already.
        Exists = "exists already",
        /// No slot of the VM has the number.
        Missing = "does not exist",
        /// The slot with the number is no copy of a file ([`SlotBacking::CopyOf`](crate::SlotBacking::CopyOf)), which the call
        /// needs.
        NotACopy = "is not a copy of a file",
        /// The slot with the number would end beyond 2^64.
        OutsideAddressSpace = "leaves the address space",
    }
}

reasons! {
    /// Change of a file that was mapped: it was truncated, written, or cannot be read ([`Error::FileChanged`]).
    FileChange {
        /// The file was truncated, or a page could not be read.
        Truncated = "became shorter",
        /// The size or modification time of the file changed.
        Written = "was written to",
        /// The state of the file cannot be read: `fstat(2)` failed.
        Unreadable = "can no longer be read",
    }
}

/// Result of a function of this crate, with its [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Makes [`Error::Call`] of the error of a call.
pub(crate) fn call_failed(call: Call, detail: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let detail = detail.into();
    move |source| Error::Call { call, detail, source }
}
