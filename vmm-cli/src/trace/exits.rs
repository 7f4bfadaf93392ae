//! Observes exits and single steps, for traces and statistics.
//!
//! An event is created at the exit and completed when the exit has been served, since the result of a read is known
//! only then. Registers are read only for exits that a trace or table needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use vmm_core::cpu::cpu_state::linear_rip;
use vmm_core::cpu::exit_counts::ExitKind;
use vmm_core::disassembly::{Instruction, next_instruction};
use vmm_core::kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use vmm_core::kvm_sys_wrap::{Exit, Vcpu};
use vmm_core::machine::Machine;
use vmm_core::machine::end::{End, internal_error_name};
use vmm_core::machine::observer::{ExitView, Observer};
use vmm_core::machine::stepper::can_step;
use vmm_core::spec::register::Register;

use super::access::{DeviceNames, ExitAccess};
use super::calls::{CallWatch, nanoseconds};
use super::event::{ExitEvent, NoteEvent, StepEvent, TraceEvent};
use super::filter::TraceFilter;
use super::log::Log;
use super::reg_diff;
use super::statistics::ExitCounters;
use super::symbolize::Symbolizer;
use crate::prepare::Files;

/// Observer of the exits of one run.
pub(crate) struct ExitWatch<'a> {
    calls: Arc<CallWatch>,
    log: Option<(Arc<Log>, TraceFilter)>,
    counts: Option<ExitCounters>,
    symbolizer: Symbolizer<'a>,
    devices: DeviceNames,
    /// Registers at the last traced event, by vCPU.
    before: BTreeMap<u64, (kvm_regs, kvm_sregs)>,
    /// Exit that is being served.
    pending: Option<(ExitEvent, Instant)>,
    steps: Option<StepState>,
}

/// State of single-stepping.
#[derive(Default)]
struct StepState {
    /// Instruction that is executed next; `None` where nothing can be decoded.
    next: Option<Instruction>,
    /// True if the note that this host cannot step was written.
    has_noted: bool,
}

impl<'a> ExitWatch<'a> {
    /// Creates an observer before the first exit.
    pub(crate) fn new(
        calls: &Arc<CallWatch>,
        log: Option<(Arc<Log>, TraceFilter)>,
        stepping: bool,
        stats: bool,
        machine: &Machine,
        files: &'a Files,
    ) -> Self {
        let mut watch = Self {
            calls: Arc::clone(calls),
            log,
            counts: stats.then(ExitCounters::default),
            symbolizer: Symbolizer::new(files),
            devices: DeviceNames::from_machine(machine),
            before: machine.vcpus().filter_map(|vcpu| Some((vcpu.id(), registers(calls, vcpu)?))).collect(),
            pending: None,
            steps: stepping.then(StepState::default),
        };
        if let Some((regs, sregs)) = watch.before.get(&machine.vcpu().id()).copied() {
            watch.decode_next(machine.vcpu(), machine.memory(), &regs, &sregs);
        }
        watch
    }

    /// Completes the last event and returns the counters.
    pub(crate) fn finish(mut self) -> Option<ExitCounters> {
        self.complete(&[]);
        self.counts
    }

    fn wants(&self, exit: &Exit, exits: u64) -> bool {
        let kind = ExitKind::from(exit);
        self.counts.is_some()
            || self.log.as_ref().is_some_and(|(log, filter)| {
                log.settings.exits.any()
                    && filter.exit(kind, ExitAccess::from_exit(exit).map(|access| access.at), exits)
            })
    }

    /// Handles an exit.
    fn exit(&mut self, view: &ExitView<'_>, regs: &kvm_regs, sregs: &kvm_sregs) {
        let number = view.exits.total();
        let rip = self.calls.unobserved(|| self.symbolizer.instruction(view, regs, sregs));
        let access = ExitAccess::from_exit(view.exit);
        let device = access.as_ref().and_then(|access| self.devices.name_at(access.at));
        if let Some(tally) = &mut self.counts {
            tally.add(access.as_ref(), device, rip);
        }
        let Some((log, filter)) = &self.log else { return };
        let at = access.as_ref().map(|access| access.at);
        if !log.settings.exits.any() || !filter.exit(ExitKind::from(view.exit), at, number) {
            return;
        }
        let place = self.symbolizer.locate(rip);
        if !filter.symbol(place.symbol.as_deref()) {
            return;
        }
        let (at_ns, guest_ns) = self.calls.last_run();
        let event = ExitEvent {
            at_ns,
            guest_ns,
            served_at_ns: 0,
            service_ns: 0,
            vcpu: view.vcpu.id(),
            number,
            exit: ExitKind::from(view.exit).name(),
            place,
            access: access.map(|access| access.event(device)),
            detail: detail(view.exit),
            changes: self.changes(view.vcpu.id(), regs, sregs),
        };
        self.pending = Some((event, Instant::now()));
    }

    /// Completes the event of an exit that was served.
    fn complete(&mut self, answer: &[u8]) {
        let Some((mut event, served)) = self.pending.take() else { return };
        event.served_at_ns = self.calls.at_ns(served);
        event.service_ns = nanoseconds(served.elapsed());
        if let Some(access) = event.access.as_mut().filter(|access| !access.write) {
            access.bytes = answer.to_vec();
        }
        if let Some((log, _)) = &self.log {
            log.push(TraceEvent::Exit(event));
        }
    }

    /// Handles a single step.
    fn step(&mut self, view: &ExitView<'_>, regs: &kvm_regs, sregs: &kvm_sregs) {
        let Some(instruction) = self.steps.as_mut().and_then(|steps| steps.next.take()) else { return };
        let Some((log, filter)) = self.log.clone() else { return };
        if !log.settings.steps.any() || !filter.step(view.exits.total()) {
            return;
        }
        let place = self.symbolizer.locate(instruction.address);
        if !filter.symbol(place.symbol.as_deref()) {
            return;
        }
        let (at_ns, guest_ns) = self.calls.last_run();
        let target = instruction.target.and_then(|target| self.symbolizer.locate(target).symbol);
        log.push(TraceEvent::Step(StepEvent {
            at_ns,
            guest_ns,
            vcpu: view.vcpu.id(),
            place,
            bits: instruction.width.bits(),
            instruction: match target {
                Some(target) => format!("{} <{target}>", instruction.text),
                None => instruction.text,
            },
            bytes: instruction.bytes,
            changes: self.changes(view.vcpu.id(), regs, sregs),
        }));
    }

    /// Returns true for the exit of a HLT that was not reported as a step.
    fn is_unreported_hlt(&self, exit: &Exit, linear: u64) -> bool {
        let next = self.steps.as_ref().and_then(|steps| steps.next.as_ref());
        matches!(exit, Exit::Hlt)
            && next.is_some_and(|next| next.text == "hlt" && next.next_address() == linear)
    }

    /// Writes a note about the instruction that the guest died in. It was not completed, so it is no step.
    fn note_fatal_instruction(&mut self, exit: &Exit) {
        let dead = matches!(exit, Exit::Shutdown | Exit::InternalError { .. } | Exit::FailEntry { .. });
        let next = self.steps.as_mut().and_then(|steps| steps.next.take_if(|_| dead));
        if let (Some(next), Some((log, _))) = (next, &self.log) {
            let place = self.symbolizer.locate(next.address);
            let text = format!("not completed: {place}: {next}");
            log.push(TraceEvent::Note(NoteEvent { at_ns: self.calls.at_ns(Instant::now()), text }));
        }
    }

    /// Decodes the next instruction before it is executed, since the guest may overwrite it.
    fn decode_next(
        &mut self,
        vcpu: &Vcpu,
        memory: &vmm_core::kvm_sys_wrap::GuestMemory,
        regs: &kvm_regs,
        sregs: &kvm_sregs,
    ) {
        let Some(steps) = &mut self.steps else { return };
        if can_step(sregs) {
            steps.next = self.calls.unobserved(|| next_instruction(vcpu, memory, regs, sregs));
            return;
        }
        steps.next = None;
        if !std::mem::replace(&mut steps.has_noted, true)
            && let Some((log, _)) = &self.log
        {
            let text = "this host's KVM (kvm-pvm) cannot single-step 64-bit code in ring 3: no steps there";
            log.push(TraceEvent::Note(NoteEvent {
                at_ns: self.calls.at_ns(Instant::now()),
                text: text.to_owned(),
            }));
        }
    }

    /// Returns the changes since the last event. RIP always changes, and is shown as the location.
    fn changes(&mut self, vcpu: u64, regs: &kvm_regs, sregs: &kvm_sregs) -> Vec<reg_diff::RegisterChange> {
        let before = self.before.insert(vcpu, (*regs, *sregs));
        let Some((old_regs, old_sregs)) = before else { return Vec::new() };
        let mut list = reg_diff::diff_regs(&old_regs, regs);
        list.retain(|change| change.register != Register::Rip.name());
        list.extend(reg_diff::diff_sregs(&old_sregs, sregs));
        list
    }
}

impl Observer for ExitWatch<'_> {
    fn on_exit(&mut self, view: &ExitView<'_>) -> Option<End> {
        let exits = view.exits.total();
        self.calls.set_exits(exits);
        if self.steps.is_none() && !self.wants(view.exit, exits) {
            return None;
        }
        let (regs, sregs) = registers(&self.calls, view.vcpu)?;
        let step = self.steps.is_some() && matches!(view.exit, Exit::Debug { .. });
        if step || self.is_unreported_hlt(view.exit, linear_rip(&regs, &sregs)) {
            self.step(view, &regs, &sregs);
        }
        if !step {
            self.note_fatal_instruction(view.exit);
            self.exit(view, &regs, &sregs);
        }
        // In the middle of an instruction the next one is unchanged.
        if step || self.steps.as_ref().is_some_and(|steps| steps.next.is_none()) {
            self.decode_next(view.vcpu, view.memory, &regs, &sregs);
        }
        None
    }

    fn on_served(&mut self, _: &ExitView<'_>, answer: &[u8]) {
        self.complete(answer);
    }
}

fn registers(calls: &CallWatch, vcpu: &Vcpu) -> Option<(kvm_regs, kvm_sregs)> {
    // If registers cannot be read, the run itself reports the error.
    calls.unobserved(|| Some((vcpu.regs_at_exit().ok()?, vcpu.sregs_at_exit().ok()?)))
}

/// Returns further data of the exit.
fn detail(exit: &Exit) -> Option<String> {
    if let Exit::InternalError { suberror, .. } = exit {
        return Some(internal_error_name(*suberror).to_owned());
    }
    // A name alone, as in `Hlt`, says nothing new.
    let text = format!("{exit:?}");
    (ExitAccess::from_exit(exit).is_none() && text.contains([' ', '('])).then_some(text)
}
