//! Whether a machine with interrupt controllers sleeps for good.
//!
//! A halted vCPU is woken by an interrupt, if it lets interrupts in: from a device through the PICs or the IOAPIC, from the
//! timer of its own APIC, or from another vCPU. If all vCPUs halt, or still wait for their start, there is no other
//! one; if no input is open and no timer is armed, there is nothing at all.
//!
//! NMIs are not looked at: a machine that sleeps with interrupts off and hopes for a watchdog's NMI counts as dead.

use kvm_sys_wrap::{MpState, Vcpu};

use crate::machine::board::Board;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::processor::has_interrupts_on;
use crate::machine::processors::Processors;
use crate::spec::Interrupts;

/// Whether nothing but another vCPU could wake this one.
pub(crate) fn is_idle_forever(board: &Board, vcpu: &Vcpu) -> Result<bool, Error> {
    match vcpu.mp_state()? {
        MpState::Uninitialized | MpState::InitReceived => return Ok(true),
        MpState::Halted => {}
        MpState::Runnable | MpState::SipiReceived | MpState::Other(_) => return Ok(false),
    }
    if !has_interrupts_on(&vcpu.regs()?) {
        return Ok(true);
    }
    let by_device = board.spec.interrupts == Interrupts::Pc && vcpu.vm().any_irq_unmasked()?;
    Ok(!by_device && !vcpu.apic_timer_armed()?)
}

/// The end of a machine none of whose vCPUs, stopped all, can ever wake; `None` if one can.
pub(crate) fn end(board: &Board, processors: &Processors) -> Result<Option<End>, Error> {
    for processor in processors.iter() {
        if !is_idle_forever(board, &processor.vcpu)? {
            return Ok(None);
        }
    }
    Ok(Some(End::Halt { interrupts: has_interrupts_on(&processors.bsp().vcpu.regs()?) }))
}
