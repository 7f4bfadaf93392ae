//! Detection of a machine with interrupt controllers that is idle forever.
//!
//! A halted vCPU with interrupts enabled is woken by an interrupt: from a device through the PICs or the IOAPIC, from the
//! timer of its own APIC, or from another vCPU. If all vCPUs are halted or wait for INIT and SIPI, no interrupt can come from
//! a vCPU. If also no interrupt input is unmasked and no timer is armed, none can come at all.
//!
//! NMIs are not considered: a machine that is halted with interrupts disabled and waits for a watchdog's NMI counts as idle
//! forever.

use kvm_sys_wrap::{MpState, Vcpu};

use crate::machine::board::Board;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::processor::has_interrupts_on;
use crate::machine::processors::Processors;
use crate::spec::Interrupts;

/// Returns true if only another vCPU could wake this one.
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

/// End of a machine none of whose vCPUs can ever wake up; `None` if one can. All vCPUs are stopped.
pub(crate) fn end(board: &Board, processors: &Processors) -> Result<Option<End>, Error> {
    for processor in processors.iter() {
        if !is_idle_forever(board, &processor.vcpu)? {
            return Ok(None);
        }
    }
    Ok(Some(End::Halt { interrupts: has_interrupts_on(&processors.bsp().vcpu.regs()?) }))
}
