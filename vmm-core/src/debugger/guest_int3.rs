//! INT3 instructions of the guest's own that KVM cannot execute.

use kvm_sys_wrap::{Exit, Vcpu, emulation_failure};

use crate::machine::debug_capabilities::TrapByte;
use crate::machine::error::Error;

/// `KVM_INTERNAL_ERROR_EMULATION`.
const EMULATION: u32 = 1;

/// Moves the vCPU past an INT3 whose emulation failed (kvm-pvm). Returns true if the exit was that.
pub(super) fn skip_failed_int3(vcpu: &Vcpu, exit: &Exit) -> Result<bool, Error> {
    let Exit::InternalError { suberror: EMULATION, data } = exit else { return Ok(false) };
    if emulation_failure(data).is_none_or(|bytes| bytes.first() != Some(&TrapByte::INT3)) {
        return Ok(false);
    }
    let mut regs = vcpu.regs()?;
    regs.rip = regs.rip.wrapping_add(1);
    vcpu.set_regs(&regs)?;
    Ok(true)
}
