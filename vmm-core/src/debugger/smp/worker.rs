//! One vCPU from a resumption to the next stop, on its thread: free, or instruction by instruction.
//!
//! A single step sets the trap flag behind the guest's back. Where the host can hold interrupts back meanwhile, it does;
//! elsewhere an interrupt that is pending comes first, and its handler runs within the step, as the host runs it. Handlers
//! of exceptions are not searched for as on a machine without interrupts: the bytes to catch them would catch the other
//! vCPUs too. A step over HLT is not executed but done by hand; the vCPU sleeps then.

use iced_x86::Mnemonic;
use kvm_sys_wrap::{BreakpointCondition, Exit, GuestDebug, emulation_failure};

use super::super::DebugStop;
use super::inserted_breakpoints::Hit;
use super::resume::{Leader, ResumeAction, ResumeRound};
use crate::autopsy::moment::CpuState;
use crate::debugger::linear_memory::LinearMemory;
use crate::debugger::trap_flag::Before;
use crate::machine::error::Error;
use crate::machine::processor::Processor;
use crate::machine::run_loop::ExitOutcome;
use crate::machine::smp::index;
use crate::machine::step::can_step;

/// The one-byte opcode of INT3.
const INT3: u8 = 0xcc;

/// A vCPU and its thread's part of a round.
pub(super) struct Worker<'a, 'b, 'c> {
    pub(super) round: &'a ResumeRound<'a>,
    pub(super) processor: &'b mut Processor,
    /// Only the thread of the caller has one.
    pub(super) leader: Option<&'b mut Leader<'c>>,
}

/// What one exit came to.
enum Event {
    /// The guest's business, and done.
    Served,
    /// A signal, and nobody wants anything.
    Nothing,
    /// A debug exit that is no breakpoint: the end of a step.
    Debug,
    Stop(DebugStop),
}

impl Worker<'_, '_, '_> {
    /// Does what is ordered until all stop.
    pub(super) fn work(mut self, order: ResumeAction) {
        let number = index(self.processor);
        if let Err(error) = self.obey(order, number) {
            self.round.all.settle(Err(error));
        }
    }

    fn obey(&mut self, order: ResumeAction, number: usize) -> Result<(), Error> {
        self.processor.vcpu.set_guest_debug(&self.round.traps.debug)?;
        let mut over = false;
        while !self.round.all.is_stopping() {
            let stop = match order {
                ResumeAction::Hold => return Ok(()),
                ResumeAction::Run => self.turn()?,
                ResumeAction::Step => self.step()?,
                ResumeAction::Range(start, end) => self.step_within(start, end)?,
            };
            if let Some(stop) = stop {
                over = matches!(stop, DebugStop::Ended(_));
                self.round.all.settle(Ok((number, stop)));
            }
        }
        if !over && let Some(stop) = self.complete()? {
            self.round.all.settle(Ok((number, stop)));
        }
        Ok(self.processor.vcpu.set_guest_debug(&GuestDebug::default())?)
    }

    /// One exit of a vCPU that runs freely.
    fn turn(&mut self) -> Result<Option<DebugStop>, Error> {
        let exit = self.processor.vcpu.run()?;
        Ok(match self.take(&exit)? {
            Event::Stop(stop) => Some(stop),
            Event::Served | Event::Nothing | Event::Debug => None,
        })
    }

    /// One instruction: [`Stop::Step`] if it is done, nothing if all stop before.
    fn step(&mut self) -> Result<Option<DebugStop>, Error> {
        let before = self.registers()?;
        if !can_step(&before.sregs) {
            return Ok(Some(DebugStop::NoSteps));
        }
        let instruction = LinearMemory::on(self.round.board, &before).next_instruction(&before);
        let before = Before { registers: before, instruction };
        // kvm-pvm falls asleep one instruction too late if it steps over this one, and that may be a handler's.
        if instruction.mnemonic() == Mnemonic::Hlt && before.registers.cpl() == 0 {
            self.processor.vcpu.emulate_hlt(instruction.next_ip())?;
            return Ok(Some(DebugStop::Step));
        }
        let mut debug = GuestDebug {
            single_step: true,
            block_interrupts: self.round.abilities.block_interrupts,
            ..self.round.traps.debug
        };
        // The register of the instruction itself would fire before it.
        let pc = before.registers.linear_rip();
        for register in &mut debug.breakpoints {
            *register = register
                .filter(|wanted| wanted.condition != BreakpointCondition::Execute || wanted.address.0 != pc);
        }
        // Some hosts stop stepping without a word: it is switched on anew for each.
        self.processor.vcpu.set_guest_debug(&debug)?;
        let stop = self.until_stepped();
        self.processor.vcpu.set_guest_debug(&self.round.traps.debug)?;
        let stop = stop?;
        if matches!(stop, None | Some(DebugStop::Ended(_))) {
            return Ok(stop);
        }
        let after = self.registers()?;
        before.clean(&self.processor.vcpu, &LinearMemory::on(self.round.board, &after), &after)?;
        Ok(stop)
    }

    /// One instruction of several: nothing if the next one is one of them.
    fn step_within(&mut self, start: u64, end: u64) -> Result<Option<DebugStop>, Error> {
        let stop = self.step()?;
        if stop != Some(DebugStop::Step) {
            return Ok(stop);
        }
        let pc = self.registers()?.linear_rip();
        if self.round.traps.has_register_at(pc) {
            return Ok(Some(DebugStop::Breakpoint));
        }
        Ok(stop.filter(|_| !(start..end).contains(&pc)))
    }

    fn until_stepped(&mut self) -> Result<Option<DebugStop>, Error> {
        while !self.round.all.is_stopping() {
            let exit = self.processor.vcpu.run()?;
            match self.take(&exit)? {
                Event::Debug => return Ok(Some(DebugStop::Step)),
                // Some hosts report an instruction that exits as a step, others only the one behind it.
                Event::Served => return Ok(Some(self.complete()?.unwrap_or(DebugStop::Step))),
                Event::Nothing => {}
                Event::Stop(stop) => return Ok(Some(stop)),
            }
        }
        Ok(None)
    }

    /// Brings the vCPU between two instructions: what the last exit left half done is completed.
    fn complete(&mut self) -> Result<Option<DebugStop>, Error> {
        while let Some(exit) = self.processor.vcpu.finish_instruction()? {
            if let Event::Stop(stop) = self.take(&exit)? {
                return Ok(Some(stop));
            }
        }
        Ok(None)
    }

    fn take(&mut self, exit: &Exit) -> Result<Event, Error> {
        let Self { round, processor, leader } = self;
        if matches!(exit, Exit::Interrupted | Exit::Retry) {
            let stop = round.after_signal(processor, leader.as_deref_mut())?;
            return Ok(stop.map_or(Event::Nothing, Event::Stop));
        }
        match round.traps.hit(round.board, &mut processor.vcpu, exit)? {
            Hit::Breakpoint => return Ok(Event::Stop(DebugStop::Breakpoint)),
            Hit::Watchpoint(hit) => return Ok(Event::Stop(DebugStop::Watchpoint(hit))),
            Hit::Passed => return Ok(Event::Nothing),
            Hit::Stray => return Ok(Event::Debug),
            Hit::Other => {}
        }
        if let Exit::InternalError { suberror: 1, data } = exit
            && emulation_failure(data).is_some_and(|bytes| bytes.first() == Some(&INT3))
        {
            let mut regs = processor.vcpu.regs()?;
            regs.rip = regs.rip.wrapping_add(1);
            processor.vcpu.set_regs(&regs)?;
            return Ok(Event::Stop(DebugStop::OwnInt3));
        }
        processor.count(exit);
        let turn = processor.serve(round.board, exit)?;
        processor.reply()?;
        Ok(match turn {
            ExitOutcome::Served => Event::Served,
            ExitOutcome::Debug(_) => Event::Debug,
            ExitOutcome::Ended(end) => Event::Stop(DebugStop::Ended(end)),
        })
    }

    fn registers(&self) -> Result<CpuState, Error> {
        let vcpu = &self.processor.vcpu;
        Ok(CpuState { regs: vcpu.regs()?, sregs: vcpu.sregs()? })
    }
}
