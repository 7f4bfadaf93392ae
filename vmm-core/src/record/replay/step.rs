//! Single steps of a replay for those who know what comes next: which exceptions a step raises, and who takes them.

use kvm_sys_wrap::{Exit, Gpa, GuestDebug, Gva};
use vm_memory::Bytes;

use crate::disassembly::linear_rip;
use crate::machine::end::End;
use crate::machine::error::Error;

use super::{Replayed, Replayer};

/// A handler that an instruction is expected to end in: the place that its first byte is replaced at for one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HandlerTrap {
    /// Where the byte lies.
    pub(crate) gpa: Gpa,
    /// Where the handler begins, as a linear address.
    pub(crate) linear: u64,
}

/// What one step of an examination came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReplayStep {
    /// The instruction is done.
    Done,
    /// It raised an exception, and the vCPU stands before the handler's first instruction.
    Caught,
    /// A kick, in the middle of it.
    Kicked,
    /// The run ended.
    Ended(End),
    /// The run left the trail.
    Diverged,
    /// The budget is used up.
    OutOfTime,
}

/// HLT, which every host reports.
const HLT: u8 = 0xf4;

impl Replayer<'_> {
    /// Executes one instruction of which the caller knows whether it is a HLT (then `halt` is the linear address behind
    /// it) and whether it will raise an exception that a handler takes.
    ///
    /// An exception is delivered inside of the step, and clears the flag that single-stepping lives on: on most hosts the
    /// handler would run on unseen. So a HLT stands at its beginning for this step.
    pub(crate) fn step_instruction(
        &mut self,
        halt: Option<u64>,
        catch: Option<HandlerTrap>,
    ) -> Result<ReplayStep, Error> {
        let step = GuestDebug { single_step: true, ..GuestDebug::default() };
        self.machine.processors.bsp().vcpu.set_guest_debug(&step)?;
        let Some(catch) = catch else { return self.until_done(halt, None) };
        let memory = self.machine.board.memory.clone();
        let Ok(byte) = memory.read_obj::<u8>(catch.gpa.into()) else { return self.until_done(halt, None) };
        // The page was just read. Slots that the guest cannot write can be written here.
        let _ = memory.write_obj(HLT, catch.gpa.into());
        let result = self.until_done(halt, Some(catch));
        let _ = memory.write_obj(byte, catch.gpa.into());
        result
    }

    fn until_done(&mut self, halt: Option<u64>, catch: Option<HandlerTrap>) -> Result<ReplayStep, Error> {
        loop {
            let exit = match self.next.take() {
                Some(exit) => exit,
                None => self.enter()?,
            };
            if let Some(catch) = catch
                && matches!(exit, Exit::Hlt | Exit::Debug { .. })
                && self.is_caught(catch)?
            {
                return Ok(ReplayStep::Caught);
            }

            if exit == Exit::Hlt && !self.is_behind_halt()? {
                // kvm-pvm remembers a HLT that was stepped over, and reports it after the next instruction.
                return Ok(ReplayStep::Done);
            }
            match self.serve(&exit)? {
                // The rest of the instruction, and no more: some hosts report the step only after the next one.
                Replayed::Served => match self.machine.processors.bsp_mut().vcpu.finish_instruction()? {
                    Some(exit) => self.next = Some(exit),
                    None => return Ok(ReplayStep::Done),
                },
                Replayed::Debug(event) if Some(event.pc) == halt => {
                    return Ok(ReplayStep::Ended(self.machine.halted()?));
                }
                Replayed::Debug(_) => return Ok(ReplayStep::Done),
                Replayed::Kicked => return Ok(ReplayStep::Kicked),
                Replayed::Ended(end) => return Ok(ReplayStep::Ended(end)),
                Replayed::Diverged => return Ok(ReplayStep::Diverged),
                Replayed::OutOfTime => return Ok(ReplayStep::OutOfTime),
            }
        }
    }

    /// Whether the instruction before the present one is a HLT, or cannot be read.
    fn is_behind_halt(&self) -> Result<bool, Error> {
        let vcpu = &self.machine.processors.bsp().vcpu;
        let linear = linear_rip(&vcpu.regs()?, &vcpu.sregs()?).wrapping_sub(1);
        let Some(gpa) = vcpu.translate(Gva(linear))? else { return Ok(true) };
        Ok(self.machine.board.memory.read_obj::<u8>(gpa.into()).map_or(true, |byte| byte == HLT))
    }

    /// Whether the vCPU stands at the handler, or just behind the HLT that stands there.
    fn is_caught(&self, catch: HandlerTrap) -> Result<bool, Error> {
        let vcpu = &self.machine.processors.bsp().vcpu;
        let mut regs = vcpu.regs()?;
        let linear = linear_rip(&regs, &vcpu.sregs()?);
        if linear == catch.linear.wrapping_add(1) {
            regs.rip = regs.rip.wrapping_sub(1);
            vcpu.set_regs(&regs)?;
            return Ok(true);
        }
        Ok(linear == catch.linear)
    }
}
