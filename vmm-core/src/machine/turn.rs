//! One turn of a vCPU: run it to its next exit, then handle that exit.
//!
//! `Processor::handle_exit` is the only sequence of this kind: intercept, count, check limits and observers, serve, answer.
//! The plain run loop, the vCPU threads, replays and debuggers call it with `ExitHooks` of their own.
//! `Processor::finish_instruction` does the same for the exits of an instruction that is half done.

use std::convert::Infallible;

use kvm_sys_wrap::Exit;

use crate::cpu::exit_counts::is_guest_exit;
use crate::machine::board::Board;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::observer::ExitView;
use crate::machine::processor::Processor;

/// Additions to the handling of an exit. Every method does nothing unless it is implemented.
pub(crate) trait ExitHooks {
    /// Reason of the hooks' own to stop the vCPU at an exit.
    type Interception;

    /// Called first. `Some` is the outcome of the exit, which is then neither counted nor served.
    #[inline]
    fn intercept(
        &mut self,
        processor: &mut Processor,
        board: &Board,
        exit: &Exit,
    ) -> Result<Option<ExitOutcome<Self::Interception>>, Error> {
        let _ = (processor, board, exit);
        Ok(None)
    }

    /// Called after the exit was counted and before it is served. `Some` ends the run instead.
    #[inline]
    fn before_serve(&mut self, view: &ExitView<'_>) -> Result<Option<End>, Error> {
        let _ = view;
        Ok(None)
    }

    /// Called after the exit was served. `answer` is what the guest is about to read; the hook may change the bytes.
    #[inline]
    fn after_serve(&mut self, view: &ExitView<'_>, answer: &mut [u8]) {
        let _ = (view, answer);
    }
}

/// No additions: exits are counted and served.
impl ExitHooks for () {
    type Interception = Infallible;
}

/// Hooks that drop every exit: neither counted nor served.
struct DiscardExits;

impl ExitHooks for DiscardExits {
    type Interception = Infallible;

    fn intercept(
        &mut self,
        _: &mut Processor,
        _: &Board,
        _: &Exit,
    ) -> Result<Option<ExitOutcome<Infallible>>, Error> {
        Ok(Some(ExitOutcome::Ignored))
    }
}

/// Result of one turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ExitOutcome<I> {
    /// An exit of the guest was served; the guest can go on.
    Served,
    /// A signal, or an exit that a hook took out; the guest can go on.
    Ignored,
    /// A debug event that was asked for with `KVM_SET_GUEST_DEBUG`; the guest can go on.
    Debug(DebugEvent),
    /// The run is over.
    Ended(End),
    /// A hook's own reason to stop.
    Intercepted(I),
}

/// Debug event of a vCPU, such as a breakpoint or the end of a single step: the data of an [`Exit::Debug`] that callers use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebugEvent {
    /// Linear address of the next instruction.
    pub pc: u64,
    /// Conditions that were met: bits 0 to 3 for breakpoints, bit 14 for a single step (SDM vol. 3, 17.2.3).
    pub dr6: u64,
}

impl DebugEvent {
    /// Returns the debug event of an exit; `None` for other exits.
    #[must_use]
    pub const fn from_exit(exit: &Exit) -> Option<Self> {
        if let Exit::Debug { pc, dr6, .. } = exit { Some(Self { pc: *pc, dr6: *dr6 }) } else { None }
    }
}

impl Processor {
    /// Runs the vCPU to its next exit and handles that.
    #[inline]
    pub(crate) fn turn<H: ExitHooks>(
        &mut self,
        board: &Board,
        hooks: &mut H,
    ) -> Result<ExitOutcome<H::Interception>, Error> {
        let exit = self.vcpu.run()?;
        self.handle_exit(board, &exit, hooks)
    }

    /// Handles one exit: counts it, serves it and answers it, with the hooks in between.
    #[inline]
    pub(crate) fn handle_exit<H: ExitHooks>(
        &mut self,
        board: &Board,
        exit: &Exit,
        hooks: &mut H,
    ) -> Result<ExitOutcome<H::Interception>, Error> {
        if let Some(outcome) = hooks.intercept(self, board, exit)? {
            return Ok(outcome);
        }
        self.count(exit);
        if let Some(end) = hooks.before_serve(&self.view(exit, board))? {
            return Ok(ExitOutcome::Ended(end));
        }
        let end = self.serve(board, exit)?;
        let view = ExitView { exit, vcpu: &self.vcpu, memory: &board.memory, exits: &self.exits };
        hooks.after_serve(&view, &mut self.answer);
        if !self.answer.is_empty() {
            self.vcpu.complete_io(&self.answer)?;
        }
        Ok(if let Some(end) = end {
            ExitOutcome::Ended(end)
        } else if is_guest_exit(exit) {
            ExitOutcome::Served
        } else {
            DebugEvent::from_exit(exit).map_or(ExitOutcome::Ignored, ExitOutcome::Debug)
        })
    }

    /// Lets the kernel finish the instruction of the last exit, so that registers and memory are those of an instruction
    /// boundary. Further exits of the same instruction are handled, up to and including the first outcome for which
    /// `is_last` returns true; that outcome is returned, and `None` once the instruction is done.
    pub(crate) fn finish_instruction<H: ExitHooks>(
        &mut self,
        board: &Board,
        hooks: &mut H,
        is_last: impl Fn(&ExitOutcome<H::Interception>) -> bool,
    ) -> Result<Option<ExitOutcome<H::Interception>>, Error> {
        while let Some(exit) = self.vcpu.finish_instruction()? {
            let outcome = self.handle_exit(board, &exit, hooks)?;
            if is_last(&outcome) {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// Drops what is left of the last exit's instruction. For callers that replace all of the vCPU's state next.
    pub(crate) fn discard_instruction(&mut self, board: &Board) -> Result<(), Error> {
        if self.vcpu.has_pending_completion() {
            self.finish_instruction(board, &mut DiscardExits, |_| false)?;
        }
        Ok(())
    }
}
