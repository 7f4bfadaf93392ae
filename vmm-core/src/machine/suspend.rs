//! Suspend to memory (ACPI S3) and waking up.
//!
//! A guest writes S3 to the power registers. From then on no CPU runs; memory and devices keep their state. An alarm of the
//! clock wakes the machine. Its CPUs and interrupt controllers are in their reset state then, but the BSP starts in real mode
//! at the waking vector that the guest left in the FACS, not at the reset vector. The APs wait for INIT and SIPI (ACPI 6.5,
//! 16.3.2 and 5.2.10).
//!
//! The reset state is read from a new machine, which is dropped again. Its VM may be a reserved one (`reserved_vms.rs`).

use std::time::Duration;

use kvm_sys_wrap::{Gpa, TssAddress, Vm};
use rustix::event::{Timespec, poll};
use rustix::io::Errno;
use vm_memory::Bytes;

use crate::devices::rtc;
use crate::firmware;
use crate::machine::board::Board;
use crate::machine::end::{End, Suspend};
use crate::machine::error::Error;
use crate::machine::interrupt_controllers;
use crate::machine::processors::Processors;
use crate::spec::Interrupts;

/// MSRs by which a guest gives KVM addresses in guest memory that KVM writes (Documentation/virt/kvm/x86/msr.rst): wall clock and
/// system time, by their old numbers and their new ones; asynchronous page faults, stolen time, end of interrupt.
pub(crate) const SHARED_WITH_KVM: [u32; 7] =
    [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04];

/// Times that a machine was suspended, in all its runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SuspendTimes {
    /// Total time.
    pub(crate) total: Duration,
    /// True if the machine is suspended now: the run was stopped meanwhile.
    pub(crate) suspended: bool,
}

/// Longest time between two checks for the end of the run: a signal between the check and `poll` does not end the wait.
const MAX_POLL_TIMEOUT: Duration = Duration::from_millis(50);

/// Waits until a time since the epoch. `check_end` is called repeatedly and returns the end of the run if that comes first.
pub(crate) fn sleep(until: Duration, check_end: impl Fn() -> Option<End>) -> Result<Option<End>, Error> {
    loop {
        if let Some(end) = check_end() {
            return Ok(Some(end));
        }
        let left = until.saturating_sub(rtc::now());
        if left.is_zero() {
            return Ok(None);
        }
        let time = Timespec::try_from(left.min(MAX_POLL_TIMEOUT)).ok();
        match poll(&mut [], time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Clock(error.into())),
        }
    }
}

/// Wakes a machine all of whose vCPUs are stopped; returns an end if the guest left no waking vector.
pub(crate) fn wake(board: &Board, processors: &mut Processors) -> Result<Option<End>, Error> {
    let (segment, offset) = match wake_address(board) {
        Ok(address) => address,
        Err(end) => return Ok(Some(end)),
    };
    let new = create_reset_vm(processors.bsp().vcpu.vm(), board)?;
    for processor in processors.iter_mut() {
        processor.discard_instruction(board)?;
        let vcpu = new.create_vcpu(processor.vcpu.id())?;
        let mut state = vcpu.save()?;
        state.msrs.extend(vcpu.msrs(&SHARED_WITH_KVM)?);
        if vcpu.id() == 0 {
            (state.sregs.cs.selector, state.sregs.cs.base) = (segment, u64::from(segment) << 4);
            state.regs.rip = offset;
        }
        processor.vcpu.restore(&state)?;
        processor.vcpu.restore_lapic(&vcpu.save_lapic()?)?;
    }
    if board.spec.interrupts == Interrupts::Pc {
        processors.bsp().vcpu.vm().restore_irqchip(&new.save_irqchip()?)?;
    }
    Ok(None)
}

/// Returns CS and IP of the first instruction after a wake, or the end of a run whose guest left none.
pub(crate) fn wake_address(board: &Board) -> Result<(u16, u64), End> {
    let vector = waking_vector(board);
    real_mode(vector).ok_or(End::Suspend(Suspend::NoVector(vector)))
}

/// Creates a VM in its reset state, without memory.
fn create_reset_vm(vm: &Vm, board: &Board) -> Result<Vm, Error> {
    let new = vm.kvm().create_vm_for(true)?;
    // As in other machines: a reserved VM is used again.
    new.set_tss_addr(TssAddress::new(board.spec.tss_address)?)?;
    interrupt_controllers(&new, &board.spec)?;
    Ok(new)
}

/// Waking vector in the FACS; 0 where there is none.
fn waking_vector(board: &Board) -> u32 {
    if !board.spec.devices.platform.acpi {
        return 0;
    }
    let Gpa(address) = firmware::WAKING_VECTOR;
    let mut vector = [0; 4];
    let read = board.memory.read_slice(&mut vector, vm_memory::GuestAddress(address));
    read.map_or(0, |()| u32::from_le_bytes(vector))
}

/// CS and IP of a physical address below 1 MiB (5.2.10: CS has bits 4 to 19, IP bits 0 to 3).
fn real_mode(vector: u32) -> Option<(u16, u64)> {
    let segment = u16::try_from(vector >> 4).ok()?;
    (vector != 0).then_some((segment, u64::from(vector & 0xf)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
    use kvm_sys_wrap::{Call, CallObserver, CallRecord, Kvm, MpState};

    use super::*;
    use crate::Gva;
    use crate::devices::console::Console;
    use crate::machine::Machine;
    use crate::machine::image::FlatImage;
    use crate::machine::reserved_vms::ReplayPurpose;
    use crate::spec::mode::Mode;
    use crate::spec::{EntryPoint, MachineSpec};

    #[test]
    fn the_vector_becomes_segment_and_offset() {
        assert_eq!(real_mode(0x1000), Some((0x100, 0)));
        assert_eq!(real_mode(0x9_9123), Some((0x9912, 3)));
        assert_eq!(real_mode(0xf_ffff), Some((0xffff, 0xf)));
        assert_eq!((real_mode(0), real_mode(0x10_0000)), (None, None));
    }

    /// Number of VMs that were created.
    #[derive(Default)]
    struct CreatedVms(AtomicUsize);

    impl CallObserver for CreatedVms {
        fn observe(&self, record: &CallRecord<'_>) {
            if record.call == Call::CreateVm {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    #[test]
    #[ignore = "needs /dev/kvm"]
    fn all_wakes_read_the_reset_state_from_one_reserved_vm() {
        let created = Arc::new(CreatedVms::default());
        let kvm = Kvm::open_with(Kvm::DEVICE.as_ref(), Some(created.clone())).unwrap();
        let mut spec = MachineSpec::new(Mode::Real, 2 << 20, EntryPoint::Address(Gva(0x8000)));
        (spec.interrupts, spec.vcpus, spec.devices.platform.acpi) = (Interrupts::Pc, 2, true);
        let guest = FlatImage { address: Gpa(0x8000), bytes: &[0xf4] };
        let mut machine = Machine::build(&kvm, spec, &guest, Console::with_output(std::io::sink())).unwrap();
        let _reserved = machine.reserve_replays(ReplayPurpose::None).unwrap();
        assert_eq!(created.0.load(Ordering::SeqCst), 2);
        machine.memory().write_obj(0x9_9123_u32, firmware::WAKING_VECTOR.into()).unwrap();
        for _ in 0..3 {
            let bsp = &machine.processors.bsp().vcpu;
            let (sregs, regs) = (bsp.sregs().unwrap(), bsp.regs().unwrap());
            bsp.set_sregs(&kvm_sregs { cr2: 0x1234, ..sregs }).unwrap();
            bsp.set_regs(&kvm_regs { rbx: 0x5678, rip: 0x4000, ..regs }).unwrap();
            assert_eq!(wake(&machine.board, &mut machine.processors).unwrap(), None);
            let bsp = &machine.processors.bsp().vcpu;
            let (sregs, regs) = (bsp.sregs().unwrap(), bsp.regs().unwrap());
            assert_eq!((sregs.cs.base, sregs.cr2, regs.rip, regs.rbx), (0x9_9120, 0, 3, 0));
            let ap = machine.processors.get(1).unwrap();
            assert_eq!(ap.vcpu.mp_state().unwrap(), MpState::Uninitialized);
        }
        assert_eq!(created.0.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_sleep_ends_in_time_or_when_the_run_does() {
        let until = rtc::now() + Duration::from_millis(120);
        assert_eq!(sleep(until, || None).unwrap(), None);
        assert!(rtc::now() >= until);
        let asked = Cell::new(0);
        let over = || {
            asked.set(asked.get() + 1);
            (asked.get() == 3).then_some(End::Interrupted)
        };
        assert_eq!(sleep(until + Duration::from_secs(3600), over).unwrap(), Some(End::Interrupted));
    }
}
