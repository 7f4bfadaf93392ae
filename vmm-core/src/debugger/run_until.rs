//! Runs a machine of any kind up to a point.
//!
//! Without interrupts one vCPU runs, and [`Machine::runner`] can stop it anywhere. With interrupts each vCPU has a thread, and
//! the first of them to come to an address stops all: that takes the debugger ([`crate::debugger::smp`]).

use std::time::Instant;

use kvm_sys_wrap::KickTimer;

use crate::Gva;
use crate::debugger::debug_target::{DebugStop, DebugTarget, ResumeAction, ResumeRequest};
use crate::debugger::smp::SmpDebugger;
use crate::machine::Machine;
use crate::machine::end::End;
use crate::machine::error::Error;
use crate::machine::stop_point::StopPoint;
use crate::spec::Interrupts;

/// Runs `machine` up to a point, within the limits of its description; `Some` if the run ended before.
///
/// # Errors
/// As [`Machine::run`]; with interrupts, [`Error::NoDebugging`] and [`Error::NoBreakpoint`] where the address cannot be
/// stopped at, and [`Error::NoExitCount`] where exits of several vCPUs have no order.
pub fn run_until(mut machine: Machine, point: StopPoint) -> Result<(Machine, Option<End>), Error> {
    match point {
        StopPoint::Address { gva, .. } if machine.board.spec.has_userspace_irqchip() => {
            return Err(Error::NoBreakpoint { gva });
        }
        StopPoint::Address { gva, .. } if machine.board.spec.interrupts != Interrupts::None => {
            return run_to_address(machine, gva);
        }
        StopPoint::Exits(1..) if !machine.processors.aps().is_empty() => return Err(Error::NoExitCount),
        StopPoint::Address { .. }
        | StopPoint::Exits(_)
        | StopPoint::Start
        | StopPoint::After(_)
        | StopPoint::End => {}
    }
    let end = machine.runner().until(point).run()?;
    Ok((machine, end))
}

fn run_to_address(machine: Machine, gva: Gva) -> Result<(Machine, Option<End>), Error> {
    let limit = machine.board.spec.limits.time;
    let request = ResumeRequest::Forward(vec![ResumeAction::Run; machine.vcpus().count()]);
    let mut debugger = Box::new(SmpDebugger::new(machine)?);
    if !debugger.add_breakpoint(gva)? {
        return Err(Error::NoBreakpoint { gva });
    }
    let started = Instant::now();
    let _alarm = limit.map(KickTimer::with_retries).transpose()?;
    let passed = move || limit.filter(|limit| started.elapsed() >= *limit);
    debugger.stop_if(Box::new(move || passed().is_some()));
    let end = loop {
        match debugger.resume(&request)?.1 {
            DebugStop::Breakpoint => break None,
            DebugStop::Ended(end) => break Some(end),
            DebugStop::Interrupted => {
                if let Some(limit) = passed() {
                    break Some(End::TimeLimit(limit));
                }
            }
            // None of these was asked for.
            DebugStop::Step
            | DebugStop::Watchpoint(_)
            | DebugStop::GuestInt3
            | DebugStop::CannotStep
            | DebugStop::HistoryStart
            | DebugStop::HistoryLost => {}
        }
    };
    Ok((debugger.abandon()?.machine, end))
}
