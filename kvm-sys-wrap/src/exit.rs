//! Decoding of `struct kvm_run` after `KVM_RUN` into a value that owns all of its data (api.rst, section 5).
//!
//! The list is that of x86, complete as of Linux 6.18; a number from a later kernel becomes [`Exit::Other`]. Exits are not
//! interpreted here.

use kvm_bindings as kvm;

use crate::address::{Gpa, Port};
use crate::io_bytes::IoBytes;
use crate::kvm_run::RunArea;

/// Reason why [`Vcpu::run`](crate::Vcpu::run) returned, with its data.
///
/// The enum is exhaustive on purpose: a run loop that matches without a wildcard arm is told by the compiler of each exit that it
/// does not handle. Exit numbers that this version does not know are [`Exit::Other`]; a new variant is a breaking release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// `KVM_EXIT_IO`, in: the guest reads an I/O port with IN or INS. Answer with `count` items of `width` bytes
    /// ([`Vcpu::complete_io`](crate::Vcpu::complete_io)).
    PioIn {
        /// I/O port that the guest reads.
        port: Port,
        /// Size of an item in bytes: 1, 2 or 4.
        width: u8,
        /// Number of items; more than 1 for `rep ins`.
        count: u32,
    },
    /// `KVM_EXIT_IO`, out: the guest writes an I/O port with OUT or OUTS.
    PioOut {
        /// I/O port that the guest writes.
        port: Port,
        /// Size of an item in bytes: 1, 2 or 4.
        width: u8,
        /// Number of items; more than 1 for `rep outs`.
        count: u32,
        /// Bytes written: the items, one after the other.
        data: IoBytes,
    },
    /// `KVM_EXIT_MMIO`, read: an access to an address without a slot. Answer with `width` bytes
    /// ([`Vcpu::complete_io`](crate::Vcpu::complete_io)).
    MmioRead {
        /// Guest-physical address of the first byte read.
        address: Gpa,
        /// Size of the access in bytes: 1 to 8.
        width: u8,
    },
    /// `KVM_EXIT_MMIO`, write: an access to an address without a slot, or with a read-only one.
    MmioWrite {
        /// Guest-physical address of the first byte written.
        address: Gpa,
        /// Bytes written: 1 to 8.
        data: IoBytes,
    },
    /// `KVM_EXIT_HLT`: HLT on a VM without in-kernel interrupt controller.
    Hlt,
    /// `KVM_EXIT_SHUTDOWN`: the vCPU shut down, mostly after a triple fault (SDM vol. 3, 6.15, "Double Fault").
    Shutdown,
    /// `KVM_EXIT_FAIL_ENTRY`: the CPU refused to enter the guest because its state is not valid (SDM vol. 3, 27.7; AMD APM,
    /// #VMEXIT(INVALID)).
    FailEntry {
        /// Reason that the CPU gave (`hardware_entry_failure_reason`): on Intel the VM-exit reason, on AMD the exit code.
        reason: u64,
        /// Host CPU on which the entry failed.
        cpu: u32,
    },
    /// `KVM_EXIT_INTERNAL_ERROR`: KVM could not continue with the guest.
    InternalError {
        /// `KVM_INTERNAL_ERROR_*`: 1 is an instruction that KVM could not emulate.
        suberror: u32,
        /// Further data; for suberror 1, flags and the instruction's bytes ([`emulation_failure`]).
        data: Vec<u64>,
    },
    /// `KVM_EXIT_SYSTEM_EVENT`: the guest asked for a reset or power-off, or reported a crash.
    SystemEvent {
        /// Number of the event (`KVM_SYSTEM_EVENT_*`).
        kind: u32,
        /// Further data, whose meaning depends on the event.
        data: Vec<u64>,
    },
    /// `KVM_EXIT_DEBUG`: a debug event, such as a breakpoint or the end of a single step
    /// ([`Vcpu::set_guest_debug`](crate::Vcpu::set_guest_debug)).
    Debug {
        /// Vector of the debug exception: 1 (#DB) or 3 (#BP).
        exception: u32,
        /// Linear address of the instruction that the vCPU stopped at.
        pc: u64,
        /// Value of DR6: the conditions that were met (SDM vol. 3, 17.2.3).
        dr6: u64,
        /// Value of DR7: the breakpoints that are enabled.
        dr7: u64,
    },
    /// `KVM_EXIT_IRQ_WINDOW_OPEN`: the vCPU can take an interrupt, as `request_interrupt_window` asked.
    IrqWindowOpen,
    /// `KVM_EXIT_HYPERCALL`: a paravirtual call that KVM leaves to user space.
    Hypercall {
        /// Number of the hypercall.
        number: u64,
        /// Arguments of the hypercall.
        arguments: Box<[u64; 6]>,
    },
    /// `KVM_EXIT_X86_RDMSR`: a read of an MSR that KVM does not have
    /// ([`Vm::enable_unknown_msr_exits`](crate::Vm::enable_unknown_msr_exits)), or a read that it refuses
    /// ([`Vm::enable_refused_msr_exits`](crate::Vm::enable_refused_msr_exits)).
    ReadMsr {
        /// Number of the MSR, as in ECX.
        index: u32,
        /// Reason for the exit (`KVM_MSR_EXIT_REASON_*`).
        reason: u32,
    },
    /// `KVM_EXIT_X86_WRMSR`: a write of an MSR that KVM does not have, or a write that it refuses.
    WriteMsr {
        /// Number of the MSR, as in ECX.
        index: u32,
        /// Value that the guest writes to the MSR.
        data: u64,
        /// Reason for the exit (`KVM_MSR_EXIT_REASON_*`).
        reason: u32,
    },
    /// `KVM_EXIT_IOAPIC_EOI`: with a split interrupt controller, the end of a level-triggered interrupt.
    IoapicEoi {
        /// Vector of the interrupt that ended.
        vector: u8,
    },
    /// `KVM_EXIT_SET_TPR`: the guest changed the task-priority register.
    SetTpr,
    /// `KVM_EXIT_TPR_ACCESS`: the guest accessed the task-priority register.
    TprAccess {
        /// RIP of the instruction that accessed the register.
        rip: u64,
        /// True for a write, false for a read.
        is_write: bool,
    },
    /// `KVM_EXIT_MEMORY_FAULT`: KVM could not access the memory behind a slot (`KVM_CAP_MEMORY_FAULT_INFO`, Linux 6.8).
    MemoryFault {
        /// Kind of the access (`KVM_MEMORY_EXIT_FLAG_*`).
        flags: u64,
        /// First guest-physical address of the range.
        address: Gpa,
        /// Size of the range in bytes.
        size: u64,
    },
    /// `KVM_EXIT_X86_BUS_LOCK`: the guest took a bus lock (`KVM_CAP_X86_BUS_LOCK_EXIT`).
    BusLock,
    /// `KVM_EXIT_NOTIFY`: no event window opened in the guest for too long (`KVM_CAP_X86_NOTIFY_VMEXIT`).
    Notify {
        /// Validity of the VM context (`KVM_NOTIFY_CONTEXT_INVALID`).
        flags: u32,
    },
    /// `KVM_EXIT_DIRTY_RING_FULL`: the dirty ring is full.
    DirtyRingFull,
    /// `KVM_EXIT_UNKNOWN`: a VM exit that KVM does not handle.
    Unknown {
        /// Reason that the CPU gave for the VM exit.
        hardware_reason: u64,
    },
    /// Exit with a `KVM_EXIT_*` number that has no variant here.
    Other(u32),
    /// `KVM_RUN` ended with EINTR, or was not called, because of a signal, a [`Kick`](crate::Kick) or a
    /// [`KickTimer`](crate::KickTimer).
    Interrupted,
    /// `KVM_RUN` ended with EAGAIN: the vCPU cannot run now, for example because it waits for SIPI. Call it again.
    Retry,
}

/// Destination in the `kvm_run` area of the answer to an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PendingReply {
    None,
    /// PIO page: offset and length in bytes.
    Pio(u64, usize),
    /// `kvm_run.mmio.data`: length in bytes.
    Mmio(usize),
    /// `kvm_run.msr.error`, which makes the access fail.
    Msr,
}

impl PendingReply {
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

/// Offset of `kvm_run.mmio.data`.
const MMIO_DATA: usize = std::mem::offset_of!(kvm::kvm_run, __bindgen_anon_1)
    + std::mem::offset_of!(kvm::kvm_run__bindgen_ty_1__bindgen_ty_6, data);

impl Exit {
    /// Decodes the area after a `KVM_RUN` that returned 0.
    #[inline]
    pub(crate) fn decode(area: &RunArea) -> (Self, PendingReply) {
        let run = area.run();
        let detail = &run.__bindgen_anon_1;
        let without_reply = |exit| (exit, PendingReply::None);
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
            kvm::KVM_EXIT_HLT => without_reply(Self::Hlt),
            kvm::KVM_EXIT_SHUTDOWN => without_reply(Self::Shutdown),
            kvm::KVM_EXIT_IRQ_WINDOW_OPEN => without_reply(Self::IrqWindowOpen),
            kvm::KVM_EXIT_SET_TPR => without_reply(Self::SetTpr),
            kvm::KVM_EXIT_X86_BUS_LOCK => without_reply(Self::BusLock),
            kvm::KVM_EXIT_DIRTY_RING_FULL => without_reply(Self::DirtyRingFull),
            kvm::KVM_EXIT_INTR => without_reply(Self::Interrupted),
            kvm::KVM_EXIT_X86_RDMSR | kvm::KVM_EXIT_X86_WRMSR => {
                (Self::decode_rare(run.exit_reason, detail), PendingReply::Msr)
            }
            other => without_reply(Self::decode_rare(other, detail)),
        }
    }

    /// Decodes the exits that carry data and are rare.
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

fn decode_pio(area: &RunArea, io: kvm::kvm_run__bindgen_ty_1__bindgen_ty_4) -> (Exit, PendingReply) {
    let (port, width, count) = (Port(io.port), io.size, io.count);
    let length = usize::from(width).saturating_mul(usize::try_from(count).unwrap_or(usize::MAX));
    if u32::from(io.direction) == kvm::KVM_EXIT_IO_IN {
        return (Exit::PioIn { port, width, count }, PendingReply::Pio(io.data_offset, length));
    }
    // The kernel keeps the data inside the area.
    let eight = area.bytes(io.data_offset, 8).and_then(<[u8]>::first_chunk).filter(|_| length <= 8);
    let data = match eight {
        Some(eight) => IoBytes::from_array(*eight, length),
        None => IoBytes::new(area.bytes(io.data_offset, length).unwrap_or_default()),
    };
    (Exit::PioOut { port, width, count, data }, PendingReply::None)
}

fn decode_mmio(mmio: kvm::kvm_run__bindgen_ty_1__bindgen_ty_6) -> (Exit, PendingReply) {
    let address = Gpa(mmio.phys_addr);
    // At most 8 by the definition of the struct.
    let length = usize::try_from(mmio.len).unwrap_or(usize::MAX).min(mmio.data.len());
    if mmio.is_write == 0 {
        let width = u8::try_from(length).unwrap_or(8);
        return (Exit::MmioRead { address, width }, PendingReply::Mmio(length));
    }
    (Exit::MmioWrite { address, data: IoBytes::from_array(mmio.data, length) }, PendingReply::None)
}

fn prefix(data: &[u64], length: u32) -> Vec<u64> {
    data.iter().take(usize::try_from(length).unwrap_or(usize::MAX)).copied().collect()
}

/// Returns the bytes of the instruction that KVM could not emulate, from the data of an [`Exit::InternalError`] with suberror 1
/// (`KVM_INTERNAL_ERROR_EMULATION`); `None` if the data have none.
///
/// Layout (linux/kvm.h, `emulation_failure`): a word of flags, whose bit 0 says that the rest is valid; one byte with the
/// number of instruction bytes; 15 bytes with the instruction.
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
    fn instruction_bytes_follow_their_length() {
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

    #[test]
    fn any_bytes_of_the_kernel_are_an_exit() {
        for fill in [0, 0x01, 0x7f, 0xff] {
            let mut area = RunArea::for_test(fill);
            for reason in (0..64).chain([u32::MAX]) {
                area.run_mut().exit_reason = reason;
                let (exit, reply) = Exit::decode(&area);
                assert_eq!(
                    matches!(reply, PendingReply::Msr),
                    matches!(exit, Exit::ReadMsr { .. } | Exit::WriteMsr { .. })
                );
                if let Exit::MmioWrite { data, .. } = &exit {
                    assert!(data.len() <= 8);
                }
            }
        }
    }

    /// Sets the area to a PIO exit.
    fn pio(area: &mut RunArea, direction: u32, size: u8, count: u32, data_offset: u64) {
        area.run_mut().exit_reason = kvm::KVM_EXIT_IO;
        area.run_mut().__bindgen_anon_1.io = kvm::kvm_run__bindgen_ty_1__bindgen_ty_4 {
            direction: u8::try_from(direction).unwrap(),
            size,
            port: 0x3f8,
            count,
            data_offset,
        };
    }

    #[test]
    fn pio_data_are_bytes_of_the_area() {
        let mut area = RunArea::for_test(0);
        area.bytes_mut(0x1000, 0x1000).unwrap().fill(b'x');
        area.bytes_mut(0x2ffc, 4).unwrap().copy_from_slice(b"last");
        for (size, count, offset, expected) in [
            (1, 1, 0x1000, "x"),
            (4, 3, 0x1000, "xxxxxxxxxxxx"),
            (4, 1, 0x2ffc, "last"),
            (4, 2, 0x2ffc, ""),
            (1, u32::MAX, 0x1000, ""),
            (1, 1, u64::MAX, ""),
        ] {
            pio(&mut area, kvm::KVM_EXIT_IO_OUT, size, count, offset);
            let (Exit::PioOut { port: Port(0x3f8), data, .. }, PendingReply::None) = Exit::decode(&area)
            else {
                panic!("{size} {count} {offset:#x}");
            };
            assert_eq!(*data, *expected.as_bytes(), "{size} {count} {offset:#x}");
        }
        pio(&mut area, kvm::KVM_EXIT_IO_IN, 2, 3, 0x1000);
        let (Exit::PioIn { width: 2, count: 3, .. }, reply) = Exit::decode(&area) else { panic!() };
        assert_eq!((reply.offset(), reply.length()), (0x1000, 6));
        area.bytes_mut(reply.offset(), reply.length()).unwrap().fill(1);
        pio(&mut area, kvm::KVM_EXIT_IO_IN, 8, u32::MAX, u64::MAX);
        let (_, reply) = Exit::decode(&area);
        assert!(area.bytes_mut(reply.offset(), reply.length()).is_none());
    }

    #[test]
    fn the_answer_to_an_mmio_read_goes_to_its_field() {
        let mut area = RunArea::for_test(0);
        area.run_mut().exit_reason = kvm::KVM_EXIT_MMIO;
        area.run_mut().__bindgen_anon_1.mmio.phys_addr = 0xd000_0000;
        area.run_mut().__bindgen_anon_1.mmio.len = u32::MAX;
        let (exit, reply) = Exit::decode(&area);
        assert_eq!(exit, Exit::MmioRead { address: Gpa(0xd000_0000), width: 8 });
        area.bytes_mut(reply.offset(), reply.length()).unwrap().copy_from_slice(b"12345678");
        area.run_mut().__bindgen_anon_1.mmio.is_write = 1;
        let (Exit::MmioWrite { data, .. }, PendingReply::None) = Exit::decode(&area) else { panic!() };
        assert_eq!(*data, *b"12345678");
    }
}
