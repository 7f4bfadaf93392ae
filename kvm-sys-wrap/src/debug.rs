//! `KVM_SET_GUEST_DEBUG`: single steps and breakpoints that exit to user space instead of the guest (api.rst 4.87).
//!
//! A debug event ends `KVM_RUN` with [`Exit::Debug`](crate::Exit::Debug). Hosts differ in which events they report.

use std::fmt;

use kvm_bindings::{
    KVM_CAP_SET_GUEST_DEBUG2, KVM_GUESTDBG_BLOCKIRQ, KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_BP,
    KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, KVM_GUESTDBG_USE_SW_BP, kvm_guest_debug,
};

use crate::address::Gva;
use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::dev_kvm::Kvm;
use crate::error::{Result, call_failed};

/// Condition of a hardware breakpoint (SDM vol. 3, 17.2.4: the R/W and LEN fields of DR7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakpointCondition {
    /// Execution of the instruction at the address (R/W 0, LEN 0).
    Execute,
    /// Writes to 1, 2, 4 or 8 bytes (R/W 1).
    Write(u8),
    /// Reads and writes of 1, 2, 4 or 8 bytes (R/W 3).
    Access(u8),
}

/// Hardware breakpoint: one of the debug registers DR0 to DR3 with its fields in DR7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakpoint {
    /// Linear address; for data accesses a multiple of their size.
    pub address: Gva,
    /// Condition that triggers the breakpoint: execution, write or any access.
    pub condition: BreakpointCondition,
}

/// Debug events to report (`struct kvm_guest_debug`). The default reports none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestDebug {
    /// `KVM_GUESTDBG_SINGLESTEP`: exit after every instruction.
    pub single_step: bool,
    /// `KVM_GUESTDBG_USE_SW_BP`: `int3` exits instead of raising #BP in the guest.
    pub software_breakpoints: bool,
    /// `KVM_GUESTDBG_BLOCKIRQ`: deliver no interrupts while this is set; only where [`Kvm::can_block_interrupts`].
    pub block_interrupts: bool,
    /// `KVM_GUESTDBG_INJECT_BP`: inject #BP once, for an `int3` of the guest that was reported.
    pub inject_int3: bool,
    /// `KVM_GUESTDBG_USE_HW_BP`: up to four hardware breakpoints.
    pub breakpoints: [Option<Breakpoint>; 4],
}

impl GuestDebug {
    fn argument(&self) -> kvm_guest_debug {
        let mut argument = kvm_guest_debug::default();
        let used = self.breakpoints.iter().any(Option::is_some);
        for (enabled, flag) in [
            (self.single_step, KVM_GUESTDBG_SINGLESTEP),
            (self.software_breakpoints, KVM_GUESTDBG_USE_SW_BP),
            (self.block_interrupts, KVM_GUESTDBG_BLOCKIRQ),
            (self.inject_int3, KVM_GUESTDBG_INJECT_BP),
            (used, KVM_GUESTDBG_USE_HW_BP),
        ] {
            if enabled {
                argument.control |= flag | KVM_GUESTDBG_ENABLE;
            }
        }
        let (registers, dr7) = argument.arch.debugreg.split_at_mut(7);
        for ((number, breakpoint), register) in (0_u32..).zip(&self.breakpoints).zip(registers) {
            let Some(Breakpoint { address, condition }) = breakpoint else { continue };
            *register = address.0;
            let (kind, size) = match *condition {
                BreakpointCondition::Execute => (0, 1),
                BreakpointCondition::Write(size) => (1, size),
                BreakpointCondition::Access(size) => (3, size),
            };
            let length: u64 = match size {
                2 => 1,
                4 => 3,
                8 => 2,
                _ => 0,
            };
            // Local enable bits are 0, 2, 4, 6; the fields of register n begin at bit 16 + 4n.
            let fields = (1 << (2 * number)) | ((length << 2 | kind) << (16 + 4 * number));
            if let Some(dr7) = dr7.first_mut() {
                *dr7 |= fields;
            }
        }
        argument
    }
}

/// Description of the events, as observers of calls see it.
impl fmt::Display for GuestDebug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breakpoints = self
            .breakpoints
            .iter()
            .flatten()
            .map(|Breakpoint { address, condition }| format!("{condition:?} at {address}"));
        let mut parts: Vec<String> = breakpoints.collect();
        for (enabled, part) in [
            (self.inject_int3, "int3 goes to the guest"),
            (self.block_interrupts, "interrupts held back"),
            (self.software_breakpoints, "software breakpoints"),
            (self.single_step, "single step"),
        ] {
            if enabled {
                parts.insert(0, part.to_owned());
            }
        }
        if parts.is_empty() { f.write_str("off") } else { f.write_str(&parts.join(", ")) }
    }
}

impl Kvm {
    /// Returns true if KVM can hold back interrupts while a guest is debugged ([`GuestDebug::block_interrupts`];
    /// `KVM_CAP_SET_GUEST_DEBUG2` with `KVM_GUESTDBG_BLOCKIRQ`, Linux 5.16).
    #[must_use]
    pub fn can_block_interrupts(&self) -> bool {
        self.dispatcher()
            .call(Call::CheckExtension, format_args!("KVM_CAP_SET_GUEST_DEBUG2"), || {
                Ok::<_, std::io::Error>(self.fd().check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into()))
            })
            .is_ok_and(|flags| flags.max(0).cast_unsigned() & KVM_GUESTDBG_BLOCKIRQ != 0)
    }
}

impl Vcpu {
    /// Sets the debug events to report, until the next such call (`KVM_SET_GUEST_DEBUG`, api.rst 4.87). Needs
    /// `KVM_CAP_SET_GUEST_DEBUG`.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_guest_debug(&self, debug: &GuestDebug) -> Result<()> {
        let argument = debug.argument();
        self.dispatcher()
            .call(Call::SetGuestDebug, format_args!("{debug}"), || {
                self.flush_sync_regs()?.set_guest_debug(&argument)
            })
            .map_err(call_failed(Call::SetGuestDebug, format!("vCPU {}", self.id())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn breakpoints_become_debug_registers() {
        let breakpoint = |address, condition| Some(Breakpoint { address: Gva(address), condition });
        let debug = GuestDebug {
            breakpoints: [
                breakpoint(0x1000, BreakpointCondition::Execute),
                None,
                breakpoint(0x2008, BreakpointCondition::Write(8)),
                None,
            ],
            ..GuestDebug::default()
        };
        let argument = debug.argument();
        assert_eq!(argument.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        assert_eq!(argument.arch.debugreg[..4], [0x1000, 0, 0x2008, 0]);
        // L0 and L2; for register 2, LEN 10 and R/W 01.
        assert_eq!(argument.arch.debugreg[7], 1 | 1 << 4 | 0b1001 << 24);
        assert_eq!(debug.to_string(), "Execute at 0x1000, Write(8) at 0x2008");
        assert_eq!(GuestDebug::default().argument().control, 0);
        assert_eq!(GuestDebug::default().to_string(), "off");
        let step = GuestDebug { single_step: true, ..GuestDebug::default() };
        assert_eq!(step.argument().control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
        let alone = GuestDebug { block_interrupts: true, ..step };
        assert_eq!(alone.argument().control, step.argument().control | KVM_GUESTDBG_BLOCKIRQ);
        assert_eq!(alone.to_string(), "single step, interrupts held back");
    }
}
