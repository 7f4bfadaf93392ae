//! Suspend to memory (ACPI S3): what it is to sleep, and to wake.
//!
//! A guest writes S3 to the power registers. From then on no CPU runs; memory keeps what it holds, and so do the devices.
//! An alarm of the clock wakes the machine. Its CPUs and interrupt controllers have lost everything: the first CPU begins as
//! after a reset, not at the reset vector, but where the guest left word that it should: at the waking vector in the FACS,
//! in real mode. The others wait for INIT and SIPI as at the start (ACPI 6.5, 16.3.2 and 5.2.10).
//!
//! What a CPU is after a reset is taken from a machine that has just been made, and is thrown away again.

use std::time::Duration;

use kvm_sys_wrap::{Gpa, Vm};
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

/// MSRs by which a guest gives KVM places in memory that KVM writes (Documentation/virt/kvm/x86/msr.rst): wall clock and
/// system time, by their old numbers and their new ones; asynchronous page faults, stolen time, end of interrupt.
pub(crate) const SHARED_WITH_KVM: [u32; 7] =
    [0x11, 0x12, 0x4b56_4d00, 0x4b56_4d01, 0x4b56_4d02, 0x4b56_4d03, 0x4b56_4d04];

/// The sleeps of a machine, in all its runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SuspendTimes {
    /// How long they took.
    pub(crate) total: Duration,
    /// Whether it sleeps now: the run was stopped meanwhile.
    pub(crate) now: bool,
}

/// How often the end of a sleep from outside is looked for: a signal that comes at the wrong moment wakes nobody.
const LOOK: Duration = Duration::from_millis(50);

/// Sleeps until a time since the epoch. `over` is asked now and then whether the run ends before.
pub(crate) fn sleep(until: Duration, over: impl Fn() -> Option<End>) -> Result<Option<End>, Error> {
    loop {
        if let Some(end) = over() {
            return Ok(Some(end));
        }
        let left = until.saturating_sub(rtc::now());
        if left.is_zero() {
            return Ok(None);
        }
        let time = Timespec::try_from(left.min(LOOK)).ok();
        match poll(&mut [], time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::Clock(error.into())),
        }
    }
}

/// Wakes a machine all of whose vCPUs are stopped; an end if it left no word where to go on.
pub(crate) fn wake(board: &Board, processors: &mut Processors) -> Result<Option<End>, Error> {
    let vector = waking_vector(board);
    let Some((segment, offset)) = real_mode(vector) else {
        return Ok(Some(End::Suspend(Suspend::NoVector(vector))));
    };
    let new = new_machine(processors.bsp().vcpu.vm(), board)?;
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

/// A machine as it is before anything runs, without memory.
fn new_machine(vm: &Vm, board: &Board) -> Result<Vm, Error> {
    let new = vm.kvm().create_vm()?;
    interrupt_controllers(&new, &board.spec)?;
    Ok(new)
}

/// What the guest wrote to the FACS; 0 where there is none.
fn waking_vector(board: &Board) -> u32 {
    if !board.spec.devices.platform.acpi {
        return 0;
    }
    let Gpa(address) = firmware::WAKING_VECTOR;
    let mut vector = [0; 4];
    let read = board.memory.read_slice(&mut vector, vm_memory::GuestAddress(address));
    read.map_or(0, |()| u32::from_le_bytes(vector))
}

/// A physical address below 1 MiB as CS and IP (5.2.10: CS has bits 4 to 19, IP bits 0 to 3).
fn real_mode(vector: u32) -> Option<(u16, u64)> {
    let segment = u16::try_from(vector >> 4).ok()?;
    (vector != 0).then_some((segment, u64::from(vector & 0xf)))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn the_vector_becomes_segment_and_offset() {
        assert_eq!(real_mode(0x1000), Some((0x100, 0)));
        assert_eq!(real_mode(0x9_9123), Some((0x9912, 3)));
        assert_eq!(real_mode(0xf_ffff), Some((0xffff, 0xf)));
        assert_eq!((real_mode(0), real_mode(0x10_0000)), (None, None));
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
