//! `KVM_SET_GUEST_DEBUG`: single steps and breakpoints, seen by us and not by the guest (api.rst 4.87).
//!
//! What fires differs between hosts: see vmm-core's `step.rs` for how that is dealt with. A debug event ends `KVM_RUN`
//! with [`Exit::Debug`](crate::Exit::Debug).

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

/// What a hardware breakpoint watches (SDM vol. 3, 17.2.4: the R/W and LEN fields of DR7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakpointCondition {
    /// Execution of the instruction at the address.
    Execute,
    /// Writes to 1, 2, 4 or 8 bytes.
    Write(u8),
    /// Reads and writes of 1, 2, 4 or 8 bytes.
    Access(u8),
}

/// A hardware breakpoint: one of four debug registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakpoint {
    /// The linear address; for a watch, a multiple of its size.
    pub address: Gva,
    /// What it watches.
    pub condition: BreakpointCondition,
}

/// What to report to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestDebug {
    /// Every instruction.
    pub single_step: bool,
    /// `int3` goes to us instead of the guest.
    pub software_breakpoints: bool,
    /// No interrupt is delivered meanwhile: only where [`Kvm::can_block_interrupts`].
    pub block_interrupts: bool,
    /// Now, and once: the guest gets the #BP of an `int3` of its own, on which it stands.
    pub inject_int3: bool,
    /// Up to four addresses.
    pub breakpoints: [Option<Breakpoint>; 4],
}

impl GuestDebug {
    fn argument(&self) -> kvm_guest_debug {
        let mut argument = kvm_guest_debug::default();
        let used = self.breakpoints.iter().any(Option::is_some);
        for (wanted, flag) in [
            (self.single_step, KVM_GUESTDBG_SINGLESTEP),
            (self.software_breakpoints, KVM_GUESTDBG_USE_SW_BP),
            (self.block_interrupts, KVM_GUESTDBG_BLOCKIRQ),
            (self.inject_int3, KVM_GUESTDBG_INJECT_BP),
            (used, KVM_GUESTDBG_USE_HW_BP),
        ] {
            if wanted {
                argument.control |= flag | KVM_GUESTDBG_ENABLE;
            }
        }
        let (registers, dr7) = argument.arch.debugreg.split_at_mut(7);
        for ((number, breakpoint), register) in (0_u32..).zip(&self.breakpoints).zip(registers) {
            let Some(Breakpoint { address, condition: watch }) = breakpoint else { continue };
            *register = address.0;
            let (kind, size) = match *watch {
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

/// What is reported, in words.
impl fmt::Display for GuestDebug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let breakpoints = self
            .breakpoints
            .iter()
            .flatten()
            .map(|Breakpoint { address, condition: watch }| format!("{watch:?} at {address}"));
        let mut words: Vec<String> = breakpoints.collect();
        for (wanted, word) in [
            (self.inject_int3, "int3 goes to the guest"),
            (self.block_interrupts, "interrupts held back"),
            (self.software_breakpoints, "software breakpoints"),
            (self.single_step, "single step"),
        ] {
            if wanted {
                words.insert(0, word.to_owned());
            }
        }
        if words.is_empty() { f.write_str("off") } else { f.write_str(&words.join(", ")) }
    }
}

impl Kvm {
    /// Whether [`GuestDebug::block_interrupts`] works: Linux 5.16 and later, on most hosts.
    #[must_use]
    pub fn can_block_interrupts(&self) -> bool {
        self.observed()
            .call(Call::CheckExtension, format_args!("KVM_CAP_SET_GUEST_DEBUG2"), || {
                Ok::<_, std::io::Error>(self.fd().check_extension_raw(KVM_CAP_SET_GUEST_DEBUG2.into()))
            })
            .is_ok_and(|flags| flags.max(0).cast_unsigned() & KVM_GUESTDBG_BLOCKIRQ != 0)
    }
}

impl Vcpu {
    /// Chooses what is reported, until the next such call.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_guest_debug(&self, debug: &GuestDebug) -> Result<()> {
        let argument = debug.argument();
        self.observed()
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
        let breakpoint = |address, watch| Some(Breakpoint { address: Gva(address), condition: watch });
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
