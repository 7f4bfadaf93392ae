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

/// Failure of a step of the flow. Variants may be added in any release.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device file cannot be opened.
    #[error("cannot open {}", path.display())]
    OpenDevice {
        /// The device file.
        path: PathBuf,
        /// Error of `open`.
        source: io::Error,
    },
    /// The file is not KVM, or not the KVM API that every kernel since 2.6.22 has (api.rst 4.1).
    #[error("{} speaks KVM API version {found}, not 12", path.display())]
    ApiVersion {
        /// The device file.
        path: PathBuf,
        /// Result of `KVM_GET_API_VERSION`; -1 if the call failed.
        found: i32,
    },
    /// The host's KVM lacks a capability that the call needs.
    #[error("this host's KVM has no {}, which is needed {}", capability.name(), capability.purpose())]
    MissingCapability {
        /// The capability.
        capability: Capability,
    },
    /// A system call failed.
    #[error("{call} failed: {detail}")]
    Call {
        /// The call.
        call: Call,
        /// Arguments of the call as text.
        detail: String,
        /// Error of the call.
        source: io::Error,
    },
    /// The address cannot be used for `KVM_SET_TSS_ADDR`.
    #[error("the TSS address {address} {problem}")]
    TssAddress {
        /// The address asked for.
        address: Gpa,
        /// Reason.
        problem: TssAddressProblem,
    },
    /// A memory slot, or a range inside of it, has a size or address that is not possible.
    #[error("memory slot {slot} at {address} with {size:#x} bytes {problem}")]
    SlotShape {
        /// The slot's number.
        slot: u32,
        /// Guest-physical address of the slot or range.
        address: Gpa,
        /// Size in bytes.
        size: u64,
        /// Reason.
        problem: SlotShapeProblem,
    },
    /// The host has not as many free huge pages (Documentation/admin-guide/mm/hugetlbpage.rst).
    #[error("{} MiB of hugetlb memory: this host has not as many pages of 2 MiB free", size >> 20)]
    HugePages {
        /// Bytes asked for.
        size: u64,
        /// Error of `mmap`.
        source: io::Error,
    },
    /// The slots of the VM are larger than RAM and swap of the host, without [`Slot::overcommit`](crate::Slot::overcommit).
    #[error("{} MiB of guest memory: this host has {} MiB of RAM and swap", requested >> 20, available >> 20)]
    Overcommit {
        /// Bytes of all slots.
        requested: u64,
        /// Bytes of RAM and swap.
        available: u64,
    },
    /// No slot contains the address.
    #[error("there is no memory slot at {address}")]
    NoMemory {
        /// The address.
        address: Gpa,
    },
    /// A file changed while it was mapped.
    #[error("{} {change} while it was in use", path.display())]
    FileChanged {
        /// The file.
        path: PathBuf,
        /// Kind of the change.
        change: FileChange,
    },
    /// The slot number cannot be used for the call.
    #[error("memory slot {slot} {problem}")]
    SlotNumber {
        /// The slot's number.
        slot: u32,
        /// Reason.
        problem: SlotNumberProblem,
    },
    /// Two ranges of guest-physical addresses overlap.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// The vCPU number is beyond the host's maximum.
    #[error("vCPU {id} is not possible: this host's KVM allows numbers below {limit}")]
    VcpuId {
        /// The number asked for.
        id: u64,
        /// The first number that the host refuses (`KVM_CAP_MAX_VCPU_ID`).
        limit: usize,
    },
    /// The signal or timer that makes `KVM_RUN` return could not be set up.
    #[error("cannot set up the signal that stops the guest")]
    Kick {
        /// Error of the call.
        source: io::Error,
    },
    /// The bytes given to [`Vcpu::complete_io`](crate::Vcpu::complete_io) are not what the last exit asked for.
    #[error("the vCPU waits for {expected} bytes of input, {given} were given")]
    Reply {
        /// Bytes that the exit asked for; 0 if it asked for none.
        expected: usize,
        /// Bytes given.
        given: usize,
    },
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
    /// Reason of [`Error::TssAddress`].
    TssAddressProblem {
        /// The address is not a multiple of 4 KiB.
        Unaligned = "is not a multiple of 4 KiB",
        /// The three pages do not end below 4 GiB.
        TooHigh = "does not leave room for three pages below 4 GiB",
    }
}

reasons! {
    /// Reason of [`Error::SlotShape`].
    SlotShapeProblem {
        /// The size is 0.
        Empty = "is empty",
        /// Address or size is not a multiple of 4 KiB.
        Unaligned = "is not made of whole 4 KiB pages",
        /// The end is beyond 2^64.
        OutsideAddressSpace = "leaves the address space",
        /// The size is not a multiple of 2 MiB, which [`SlotBacking::Hugetlb`](crate::SlotBacking::Hugetlb) needs.
        NotHugePages = "is not made of whole 2 MiB pages, as hugetlb memory is",
        /// The offset in the file of [`SlotBacking::CopyOf`](crate::SlotBacking::CopyOf) is not a multiple of 4 KiB.
        BackingOffset = "does not begin at a page of its file",
        /// The file of [`SlotBacking::CopyOf`](crate::SlotBacking::CopyOf) ends before the slot does.
        BackingTooSmall = "is larger than what it is a copy of",
        /// Offset or size of a [`FileRange`](crate::FileRange) is not a multiple of 4 KiB, or the size is 0.
        FileRangeUnaligned = "is laid over with what are not whole pages of a file",
        /// A [`FileRange`](crate::FileRange) ends beyond its file.
        FileRangeTooLarge = "is laid over with more than the file has",
        /// The address for a [`FileRange`](crate::FileRange) is not a multiple of 4 KiB.
        FileRangeAddress = "is laid over with a file from the middle of a page",
        /// The slot ends before the [`FileRange`](crate::FileRange) does.
        SmallerThanFileRange = "is too small for the file",
        /// The slot ends before the range to discard does.
        SmallerThanDiscard = "ends before what is to be discarded",
    }
}

reasons! {
    /// Reason of [`Error::SlotNumber`].
    SlotNumberProblem {
        /// A slot with that number exists.
        Exists = "exists already",
        /// No slot has that number.
        Missing = "does not exist",
        /// The slot's backing is not [`SlotBacking::CopyOf`](crate::SlotBacking::CopyOf).
        NotACopy = "is not a copy of a file",
        /// The slot's end is beyond 2^64.
        OutsideAddressSpace = "leaves the address space",
    }
}

reasons! {
    /// Change of a file that was mapped: see [`Error::FileChanged`].
    FileChange {
        /// The file was truncated, or a page could not be read.
        Truncated = "became shorter",
        /// Size or modification time changed.
        Written = "was written to",
        /// `fstat` failed.
        Unreadable = "can no longer be read",
    }
}

/// Result of a step of the flow.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Makes [`Error::Call`] of the error of a call.
pub(crate) fn call_failed(call: Call, detail: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let detail = detail.into();
    move |source| Error::Call { call, detail, source }
}
