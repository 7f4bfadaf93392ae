//! Single steps: one instruction of the guest at a time.
//!
//! `KVM_SET_GUEST_DEBUG` with `KVM_GUESTDBG_SINGLESTEP` makes `KVM_RUN` return after each instruction. `Processor::step` is
//! the only place that does it, with the corrections that hosts need:
//!
//! - Some hosts stop stepping after IRET or a write to CR0 or CR4, so stepping is switched on again before each step.
//! - An instruction that exits by itself (a port, MMIO) is served, then finished
//!   ([`kvm_sys_wrap::Vcpu::finish_instruction`]). Some hosts report it as a step then, others only together with the next
//!   instruction, so the step ends there in any case.
//! - Some hosts report a stepped HLT as a step like any other. It is recognized by its address and handled as
//!   [`Exit::Hlt`].
//! - kvm-pvm reports a HLT that was stepped over once more, after the next instruction (`Processor::is_after_hlt`). A new machine
//!   must not get such a vCPU.
//! - kvm-pvm cannot step 64-bit code in ring 3 ([`can_step`]).
//! - Interrupts wait during a step where the host can hold them back (`KVM_GUESTDBG_BLOCKIRQ`).

use kvm_sys_wrap::bindings::kvm_sregs;
use kvm_sys_wrap::{Exit, GuestDebug, Gva};
use vm_memory::Bytes;

use crate::cpu::cpu_state::{OperandWidth, operand_width};
use crate::machine::board::Board;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::host;
use crate::machine::processor::Processor;
use crate::machine::turn::{DebugEvent, ExitHooks, ExitOutcome};

/// One-byte opcode of HLT.
pub(crate) const HLT: u8 = 0xf4;

/// Returns true if this host can single-step a vCPU with these special registers. kvm-pvm runs 64-bit ring-3 code natively
/// and fails when that is to be stepped.
#[must_use]
pub fn can_step(sregs: &kvm_sregs) -> bool {
    let native = operand_width(sregs) == OperandWidth::Bits64 && sregs.cs.selector & 3 == 3;
    !(native && host::is_pvm())
}

/// Settings of one single step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SingleStep {
    /// Guest debug settings during the step: `single_step` and what else is wanted.
    pub(crate) debug: GuestDebug,
    /// Guest debug settings to restore after the step. `None` saves that call where another step follows.
    pub(crate) after: Option<GuestDebug>,
    /// Linear address of the end of the next instruction if that is a HLT.
    pub(crate) hlt_end: Option<u64>,
}

impl SingleStep {
    /// A step without breakpoints, after which nothing is debugged.
    pub(crate) fn new(hlt_end: Option<u64>) -> Self {
        let debug = GuestDebug { single_step: true, ..GuestDebug::default() };
        Self { debug, after: Some(GuestDebug::default()), hlt_end }
    }
}

/// Result of a single step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StepOutcome<I> {
    /// KVM reported the step.
    Reported(DebugEvent),
    /// The instruction exited, and was finished. KVM has not reported it as a step.
    Finished,
    /// The run ended.
    Ended(End),
    /// A hook's own reason to stop.
    Intercepted(I),
}

impl Processor {
    /// Executes one instruction, with the exits that it takes.
    pub(crate) fn step<H: ExitHooks>(
        &mut self,
        board: &Board,
        step: &SingleStep,
        hooks: &mut H,
    ) -> Result<StepOutcome<H::Interception>, Error> {
        self.vcpu.set_guest_debug(&step.debug)?;
        let outcome = self.run_until_stepped(board, step, hooks);
        if let Some(after) = &step.after {
            self.vcpu.set_guest_debug(after)?;
        }
        outcome
    }

    fn run_until_stepped<H: ExitHooks>(
        &mut self,
        board: &Board,
        step: &SingleStep,
        hooks: &mut H,
    ) -> Result<StepOutcome<H::Interception>, Error> {
        loop {
            let mut outcome = self.turn(board, hooks)?;
            if matches!(outcome, ExitOutcome::Served) {
                let is_last = |outcome: &_| !matches!(outcome, ExitOutcome::Served | ExitOutcome::Ignored);
                match self.finish_instruction(board, hooks, is_last)? {
                    Some(last) => outcome = last,
                    None => return Ok(StepOutcome::Finished),
                }
            }
            if let ExitOutcome::Debug(event) = &outcome
                && Some(event.pc) == step.hlt_end
            {
                self.vcpu.forbid_reuse();
                outcome = self.handle_exit(board, &Exit::Hlt, hooks)?;
            }
            match outcome {
                ExitOutcome::Served | ExitOutcome::Ignored => {}
                ExitOutcome::Debug(event) => return Ok(StepOutcome::Reported(event)),
                ExitOutcome::Ended(end) => return Ok(StepOutcome::Ended(end)),
                ExitOutcome::Intercepted(reason) => return Ok(StepOutcome::Intercepted(reason)),
            }
        }
    }

    /// Exit that `KVM_RUN` would report after a step: #DB with bit 14 of DR6, BS (SDM vol. 3, 17.2.3).
    pub(crate) fn step_report(&self) -> Result<Exit, Error> {
        Ok(Exit::Debug { exception: 1, pc: self.linear_rip()?, dr6: 0xffff_0ff0 | 1 << 14, dr7: 0x400 })
    }

    /// Linear address of the end of the next instruction if that is a HLT without prefixes.
    pub(crate) fn next_hlt_end(&self, board: &Board) -> Result<Option<u64>, Error> {
        let linear = self.vcpu.sregs()?.cs.base.wrapping_add(self.vcpu.regs()?.rip);
        let Some(gpa) = self.vcpu.translate(Gva(linear))? else { return Ok(None) };
        let byte: Option<u8> = board.memory.read_obj(gpa.into()).ok();
        Ok((byte == Some(HLT)).then(|| linear.wrapping_add(1)))
    }

    /// Returns true if the instruction before the next one is a HLT, or cannot be read.
    pub(crate) fn is_after_hlt(&self, board: &Board) -> Result<bool, Error> {
        let linear = self.linear_rip()?.wrapping_sub(1);
        let Some(gpa) = self.vcpu.translate(Gva(linear))? else { return Ok(true) };
        Ok(board.memory.read_obj::<u8>(gpa.into()).map_or(true, |byte| byte == HLT))
    }
}
