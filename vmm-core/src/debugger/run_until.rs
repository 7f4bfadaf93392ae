//! Brings a machine of any kind up to a point, to be looked at or saved there.
//!
//! Without interrupts one vCPU runs and [`Machine::run_to`] leads it. With interrupts all vCPUs run, a thread each, and the
//! first of them to come to the address stops all: that is what the debugger does ([`crate::debugger::live`]), so it is
//! asked to.

use std::time::Instant;

use kvm_sys_wrap::Alarm;

use crate::Gva;
use crate::debugger::DebugStop;
use crate::debugger::smp::{ResumeAction, SmpDebugger};
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::limits::Limits;
use crate::machine::run_to::Point;
use crate::spec::Interrupts;

impl Machine {
    /// Runs up to a point, within the limits of the machine's description; `Some` if the run ended first.
    ///
    /// # Errors
    /// As [`Machine::run`]; with interrupts, [`Error::NoDebugging`] and [`Error::NoBreakpoint`] where the address cannot be
    /// stopped at, and [`Error::NoExitCount`] where exits have no order.
    pub fn reach(self, point: Point) -> Result<(Self, Option<End>), Error> {
        let mut machine = self;
        match point {
            Point::Address { gva, .. } if machine.board.spec.interrupts != Interrupts::None => {
                return machine.reach_address(gva);
            }
            Point::Exits(1..) if !machine.processors.aps().is_empty() => return Err(Error::NoExitCount),
            Point::Address { .. } | Point::Exits(_) | Point::Start | Point::After(_) | Point::End => {}
        }
        let mut limits = Limits::start(machine.board.spec.limits)?;
        let end = machine.run_to(point, &mut limits, &mut [])?;
        Ok((machine, end))
    }

    fn reach_address(self, gva: Gva) -> Result<(Self, Option<End>), Error> {
        let limit = self.board.spec.limits.time;
        let orders = vec![ResumeAction::Run; self.vcpus().count()];
        let mut live = SmpDebugger::new(self)?;
        if !live.add_breakpoint(gva)? {
            return Err(Error::NoBreakpoint { gva });
        }
        let started = Instant::now();
        let _alarm = limit.map(Alarm::set).transpose()?;
        let passed = || limit.filter(|limit| started.elapsed() >= *limit);
        let end = loop {
            match live.resume(&orders, &mut || passed().is_some())?.1 {
                DebugStop::Breakpoint => break None,
                DebugStop::Ended(end) => break Some(end),
                DebugStop::Asked => {
                    if let Some(limit) = passed() {
                        break Some(End::TimeLimit(limit));
                    }
                }
                // Nobody asked for any of these.
                DebugStop::Step
                | DebugStop::Watchpoint(_)
                | DebugStop::OwnInt3
                | DebugStop::NoSteps
                | DebugStop::HistoryStart
                | DebugStop::HistoryLost => {}
            }
        };
        Ok((live.abandon()?.machine, end))
    }
}
