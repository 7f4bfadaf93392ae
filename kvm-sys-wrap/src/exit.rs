//! Why `KVM_RUN` returned, as a value that owns all that `struct kvm_run` said (api.rst, section 5).
//!
//! The list is x86's, complete as of Linux 6.18; a number from a later kernel is kept as [`Exit::Other`]. Nothing is
//! interpreted here: what a port or a halt means is the run loop's business.

use kvm_bindings as kvm;

use crate::address::{Gpa, Port};
use crate::io_bytes::IoBytes;
use crate::kvm_run::RunArea;

/// Why the vCPU stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// IN, or a string form of it: `count` items of `width` bytes are wanted ([`crate::Vcpu::reply`]).
    PioIn {
        /// The port.
        port: Port,
        /// Bytes per item: 1, 2 or 4.
        width: u8,
        /// Items; more than 1 for `rep ins`.
        count: u32,
    },
    /// OUT, or a string form of it.
    PioOut {
        /// The port.
        port: Port,
        /// Bytes per item: 1, 2 or 4.
        width: u8,
        /// Items; more than 1 for `rep outs`.
        count: u32,
        /// The items, one after the other.
        data: IoBytes,
    },
    /// A read of guest-physical memory where no slot is; the answer is wanted.
    MmioRead {
        /// The address.
        address: Gpa,
        /// Bytes: 1 to 8.
        width: u8,
    },
    /// A write where no slot, or a read-only one, is.
    MmioWrite {
        /// The address.
        address: Gpa,
        /// What was written: 1 to 8 bytes.
        data: IoBytes,
    },
    /// HLT, on a VM without in-kernel interrupt controller.
    Hlt,
    /// The vCPU shut down: a triple fault, mostly (SDM vol. 3, 6.15, "Double Fault").
    Shutdown,
    /// The CPU refused to enter the guest: the state was not valid (SDM vol. 3, 27.7, or the APM's #VMEXIT(INVALID)).
    FailEntry {
        /// The hardware's reason.
        reason: u64,
        /// The host CPU it happened on.
        cpu: u32,
    },
    /// KVM itself could not go on.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`: 1 is an instruction that KVM could not emulate.
        suberror: u32,
        /// What else it said; for suberror 1, flags and the instruction's bytes ([`emulation_failure`]).
        data: Vec<u64>,
    },
    /// The guest asked for a reset or power-off, or crashed by its own account.
    SystemEvent {
        /// `KVM_SYSTEM_EVENT_*`.
        kind: u32,
        /// More, depending on the kind.
        data: Vec<u64>,
    },
    /// A debug event that `KVM_SET_GUEST_DEBUG` asked for.
    Debug {
        /// The vector: 1 (#DB) or 3 (#BP).
        exception: u32,
        /// The linear address of the instruction.
        pc: u64,
        /// Which condition (SDM vol. 3, 17.2.3).
        dr6: u64,
        /// The breakpoints.
        dr7: u64,
    },
    /// The vCPU can take an interrupt now; it was asked to say so.
    IrqWindowOpen,
    /// A paravirtual call that is left to user space.
    Hypercall {
        /// Its number.
        number: u64,
        /// Its arguments.
        arguments: Box<[u64; 6]>,
    },
    /// A read of an MSR that user space asked to see.
    ReadMsr {
        /// The MSR.
        index: u32,
        /// Why it came to user space: `KVM_MSR_EXIT_REASON_*`.
        reason: u32,
    },
    /// A write of such an MSR.
    WriteMsr {
        /// The MSR.
        index: u32,
        /// The value.
        data: u64,
        /// Why it came to user space.
        reason: u32,
    },
    /// With a split interrupt controller: end of interrupt of a level-triggered vector.
    IoapicEoi {
        /// The vector.
        vector: u8,
    },
    /// The task-priority register changed.
    SetTpr,
    /// An access to the task-priority register.
    TprAccess {
        /// Where the guest was.
        rip: u64,
        /// Write, or read.
        is_write: bool,
    },
    /// The memory behind an access could not be had (`KVM_CAP_MEMORY_FAULT_INFO`).
    MemoryFault {
        /// Flags.
        flags: u64,
        /// Where.
        address: Gpa,
        /// How much.
        size: u64,
    },
    /// The guest took a bus lock (`KVM_CAP_X86_BUS_LOCK_EXIT`).
    BusLock,
    /// The guest kept the host from running for too long (`KVM_CAP_X86_NOTIFY_VMEXIT`).
    Notify {
        /// Flags.
        flags: u32,
    },
    /// A dirty ring is full.
    DirtyRingFull,
    /// An exit that KVM does not know: the hardware's reason.
    Unknown {
        /// The hardware's reason.
        hardware_reason: u64,
    },
    /// An exit number without a case here.
    Other(u32),
    /// No exit of the guest: a signal or [`crate::Kick`] ended `KVM_RUN`.
    Interrupted,
    /// No exit of the guest: this vCPU is not to run now (EAGAIN), as a secondary one that waits for its start.
    Retry,
}

/// Where the answer to an exit goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pending {
    None,
    /// Into the data page: offset and bytes.
    Pio(u64, usize),
    /// Into `kvm_run.mmio.data`.
    Mmio(usize),
    /// Whether the access to an MSR fails: into `kvm_run.msr.error`.
    Msr,
}

impl Pending {
    pub(crate) fn length(self) -> usize {
        match self {
            Self::None | Self::Msr => 0,
            Self::Pio(_, length) | Self::Mmio(length) => length,
        }
    }

    pub(crate) fn offset(self) -> u64 {
        match self {
            Self::None | Self::Msr => 0,
            Self::Pio(offset, _) => offset,
            Self::Mmio(_) => MMIO_DATA as u64,
        }
    }
}

/// Where `kvm_run.mmio.data` begins.
const MMIO_DATA: usize = std::mem::offset_of!(kvm::kvm_run, __bindgen_anon_1)
    + std::mem::offset_of!(kvm::kvm_run__bindgen_ty_1__bindgen_ty_6, data);

impl Exit {
    /// Reads the area after a `KVM_RUN` that returned 0.
    #[inline]
    pub(crate) fn decode(area: &RunArea) -> (Self, Pending) {
        let run = area.run();
        let detail = &run.__bindgen_anon_1;
        let alone = |exit| (exit, Pending::None);
        match run.exit_reason {
            kvm::KVM_EXIT_IO => {
                // SAFETY: every member of the union is plain data; this one is valid for KVM_EXIT_IO.
                let io = unsafe { detail.io };
                decode_pio(area, io)
            }
            kvm::KVM_EXIT_MMIO => {
                // SAFETY: as above, for KVM_EXIT_MMIO.
                let mmio = unsafe { detail.mmio };
                decode_mmio(mmio)
            }
            kvm::KVM_EXIT_HLT => alone(Self::Hlt),
            kvm::KVM_EXIT_SHUTDOWN => alone(Self::Shutdown),
            kvm::KVM_EXIT_IRQ_WINDOW_OPEN => alone(Self::IrqWindowOpen),
            kvm::KVM_EXIT_SET_TPR => alone(Self::SetTpr),
            kvm::KVM_EXIT_X86_BUS_LOCK => alone(Self::BusLock),
            kvm::KVM_EXIT_DIRTY_RING_FULL => alone(Self::DirtyRingFull),
            kvm::KVM_EXIT_INTR => alone(Self::Interrupted),
            kvm::KVM_EXIT_X86_RDMSR | kvm::KVM_EXIT_X86_WRMSR => {
                (Self::decode_rare(run.exit_reason, detail), Pending::Msr)
            }
            other => alone(Self::decode_rare(other, detail)),
        }
    }

    /// The exits that carry data and are not on any hot path.
    fn decode_rare(reason: u32, detail: &kvm::kvm_run__bindgen_ty_1) -> Self {
        match reason {
            kvm::KVM_EXIT_UNKNOWN => {
                // SAFETY: every member of the union is plain data; this one is valid for this exit reason.
                let hw = unsafe { detail.hw };
                Self::Unknown { hardware_reason: hw.hardware_exit_reason }
            }
            kvm::KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: as above.
                let fail = unsafe { detail.fail_entry };
                Self::FailEntry { reason: fail.hardware_entry_failure_reason, cpu: fail.cpu }
            }
            kvm::KVM_EXIT_INTERNAL_ERROR => {
                // SAFETY: as above.
                let internal = unsafe { detail.internal };
                Self::InternalError {
                    suberror: internal.suberror,
                    data: prefix(&internal.data, internal.ndata),
                }
            }
            kvm::KVM_EXIT_SYSTEM_EVENT => {
                // SAFETY: as above.
                let event = unsafe { detail.system_event };
                // SAFETY: both members of the inner union cover the same 16 words.
                let data = unsafe { event.__bindgen_anon_1.data };
                Self::SystemEvent { kind: event.type_, data: prefix(&data, event.ndata) }
            }
            kvm::KVM_EXIT_DEBUG => {
                // SAFETY: as above.
                let arch = unsafe { detail.debug }.arch;
                Self::Debug { exception: arch.exception, pc: arch.pc, dr6: arch.dr6, dr7: arch.dr7 }
            }
            kvm::KVM_EXIT_HYPERCALL => {
                // SAFETY: as above.
                let call = unsafe { detail.hypercall };
                Self::Hypercall { number: call.nr, arguments: Box::new(call.args) }
            }
            kvm::KVM_EXIT_X86_RDMSR => {
                // SAFETY: as above.
                let msr = unsafe { detail.msr };
                Self::ReadMsr { index: msr.index, reason: msr.reason }
            }
            kvm::KVM_EXIT_X86_WRMSR => {
                // SAFETY: as above.
                let msr = unsafe { detail.msr };
                Self::WriteMsr { index: msr.index, data: msr.data, reason: msr.reason }
            }
            kvm::KVM_EXIT_IOAPIC_EOI => {
                // SAFETY: as above.
                let eoi = unsafe { detail.eoi };
                Self::IoapicEoi { vector: eoi.vector }
            }
            kvm::KVM_EXIT_TPR_ACCESS => {
                // SAFETY: as above.
                let access = unsafe { detail.tpr_access };
                Self::TprAccess { rip: access.rip, is_write: access.is_write != 0 }
            }
            kvm::KVM_EXIT_MEMORY_FAULT => {
                // SAFETY: as above.
                let fault = unsafe { detail.memory_fault };
                Self::MemoryFault { flags: fault.flags, address: Gpa(fault.gpa), size: fault.size }
            }
            kvm::KVM_EXIT_NOTIFY => {
                // SAFETY: as above.
                let notify = unsafe { detail.notify };
                Self::Notify { flags: notify.flags }
            }
            other => Self::Other(other),
        }
    }
}

fn decode_pio(area: &RunArea, io: kvm::kvm_run__bindgen_ty_1__bindgen_ty_4) -> (Exit, Pending) {
    let (port, width, count) = (Port(io.port), io.size, io.count);
    let length = usize::from(width).saturating_mul(usize::try_from(count).unwrap_or(usize::MAX));
    if u32::from(io.direction) == kvm::KVM_EXIT_IO_IN {
        return (Exit::PioIn { port, width, count }, Pending::Pio(io.data_offset, length));
    }
    // The kernel keeps the data inside the area it told us the size of.
    let eight = area.bytes(io.data_offset, 8).and_then(<[u8]>::first_chunk).filter(|_| length <= 8);
    let data = match eight {
        Some(eight) => IoBytes::of_eight(*eight, length),
        None => IoBytes::new(area.bytes(io.data_offset, length).unwrap_or_default()),
    };
    (Exit::PioOut { port, width, count, data }, Pending::None)
}

fn decode_mmio(mmio: kvm::kvm_run__bindgen_ty_1__bindgen_ty_6) -> (Exit, Pending) {
    let address = Gpa(mmio.phys_addr);
    // At most 8 by the definition of the struct.
    let length = usize::try_from(mmio.len).unwrap_or(usize::MAX).min(mmio.data.len());
    if mmio.is_write == 0 {
        let width = u8::try_from(length).unwrap_or(8);
        return (Exit::MmioRead { address, width }, Pending::Mmio(length));
    }
    (Exit::MmioWrite { address, data: IoBytes::of_eight(mmio.data, length) }, Pending::None)
}

fn prefix(data: &[u64], length: u32) -> Vec<u64> {
    data.iter().take(usize::try_from(length).unwrap_or(usize::MAX)).copied().collect()
}

/// The bytes of the instruction that KVM could not emulate, from the data of an [`Exit::InternalError`] with suberror 1.
///
/// Layout (linux/kvm.h, `emulation_failure`): a word of flags, whose bit 0 says that the rest is there; then one byte
/// with the number of instruction bytes and 15 with the bytes themselves.
#[must_use]
pub fn emulation_failure(data: &[u64]) -> Option<Vec<u8>> {
    let [flags, low, high, ..] = *data else { return None };
    if flags & u64::from(kvm::KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) == 0 {
        return None;
    }
    let mut bytes = low.to_le_bytes().into_iter().chain(high.to_le_bytes());
    let size = usize::from(bytes.next()?);
    Some(bytes.take(size).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_bytes_are_found_behind_their_length() {
        // 3 bytes: 0f 58 c1 (addps).
        assert_eq!(emulation_failure(&[1, 0xc158_0f03, 0, 0]).unwrap(), [0x0f, 0x58, 0xc1]);
        assert_eq!(emulation_failure(&[0, 0xc158_0f03, 0, 0]), None);
        assert_eq!(emulation_failure(&[1]), None);
        // A length beyond the 15 bytes there are gives those.
        assert_eq!(emulation_failure(&[1, 0xff, 0]).unwrap().len(), 15);
    }

    #[test]
    fn counts_beyond_the_array_are_cut() {
        assert_eq!(prefix(&[1, 2, 3], 2), [1, 2]);
        assert_eq!(prefix(&[1, 2, 3], u32::MAX), [1, 2, 3]);
    }
}
