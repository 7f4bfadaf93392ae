//! gdbstub's `Target` in terms of [`vmm_core::debugger`]: registers, memory and stop reasons. `resume.rs` resumes the
//! guest, and `breakpoints.rs` has the breakpoints.
//!
//! The thread number of a vCPU is its number plus 1. A stop that gdb did not request is reported as a signal: SIGINT
//! for Ctrl-C, SIGSEGV or SIGILL for a guest that died, which can then be inspected.

use std::collections::BTreeSet;

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{MultiThreadBase, MultiThreadResumeOps};
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::base::single_register_access::{SingleRegisterAccess, SingleRegisterAccessOps};
use gdbstub::target::ext::breakpoints::{BreakpointsOps, WatchKind};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::target_description_xml_override::{
    TargetDescriptionXmlOverride, TargetDescriptionXmlOverrideOps,
};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{Target, TargetError, TargetResult};
use vmm_core::Gva;
use vmm_core::debugger::{DebugStop, DebugTarget, EditError, ResumeAction, ResumeRequest};
use vmm_core::kvm_sys_wrap::Breakpoint;
use vmm_core::machine::end::{End, Verdict};
use vmm_core::machine::error::Error;

use super::monitor;
use super::registers::{RegisterNumber, RegisterPacket, X86};
use super::target_xml::RegisterLayout;
use crate::prepare::Files;
use crate::stderr;
use crate::verdict::status_from_verdict;

/// Error numbers of errno.h, as gdb expects them.
const EFAULT: u8 = 14;
const EINVAL: u8 = 22;
const EROFS: u8 = 30;

/// Session of a gdb with a guest.
pub(super) struct Session<'a> {
    pub(super) debugger: &'a mut (dyn DebugTarget + 'a),
    pub(super) files: &'a Files,
    pub(super) layout: RegisterLayout,
    /// Next resume request, and the vCPUs that it names.
    pub(super) request: ResumeRequest,
    pub(super) named: BTreeSet<usize>,
    /// Breakpoints that gdb set with `break` and with `hbreak`. A stop has to report which kind it is.
    pub(super) soft: BTreeSet<u64>,
    pub(super) hard: BTreeSet<u64>,
    pub(super) watched: Vec<(Breakpoint, WatchKind)>,
}

pub(super) type StopReason = MultiThreadStopReason<u64>;

/// Returns the vCPU of a gdb thread.
pub(super) fn vcpu_of(thread: Tid) -> usize {
    thread.get() - 1
}

/// Returns the gdb thread of a vCPU.
fn thread_of(vcpu: usize) -> Tid {
    Tid::MIN.saturating_add(vcpu)
}

impl<'a> Session<'a> {
    pub(super) fn new(
        debugger: &'a mut (dyn DebugTarget + 'a),
        files: &'a Files,
        layout: RegisterLayout,
    ) -> Self {
        let (soft, hard, watched, named) = Default::default();
        let request = ResumeRequest::Forward(vec![ResumeAction::Run; debugger.vcpu_count()]);
        Self { debugger, files, layout, request, named, soft, hard, watched }
    }

    /// Removes all breakpoints and watchpoints. The next gdb does not know them.
    pub(super) fn clear(&mut self) {
        for address in self.soft.iter().chain(&self.hard) {
            self.debugger.remove_breakpoint(Gva(*address));
        }
        for (watchpoint, _) in &self.watched {
            self.debugger.remove_watchpoint(*watchpoint);
        }
    }

    /// Resumes the guest until it stops. Returns `None` if gdb sent something first.
    pub(super) fn resume_until_stop(&mut self) -> Result<Option<StopReason>, Error> {
        let ended_before = self.debugger.end().is_some();
        let (vcpu, stop) = self.debugger.resume(&self.request)?;
        let thread = thread_of(vcpu);
        Ok(match stop {
            DebugStop::Step => Some(signal(thread, Signal::SIGTRAP)),
            DebugStop::Breakpoint => Some(self.breakpoint(vcpu)?),
            DebugStop::Watchpoint(hit) => {
                let known = self.watched.iter().find(|(watchpoint, _)| *watchpoint == hit);
                let kind = known.map_or(WatchKind::Write, |(_, kind)| *kind);
                Some(StopReason::Watch { tid: thread, kind, addr: hit.address.0 })
            }
            DebugStop::GuestInt3 => Some(signal(thread, Signal::SIGTRAP)),
            DebugStop::CannotStep => {
                stderr::print_line(format_args!(
                    "gdb: this host cannot step the vCPU in the mode and ring that it is in"
                ));
                Some(signal(thread, Signal::SIGINT))
            }
            DebugStop::Interrupted => None,
            DebugStop::HistoryStart => {
                if !self.debugger.is_recorded() {
                    stderr::print_line(format_args!(
                        "gdb: a machine with interrupts cannot be run again exactly"
                    ));
                }
                Some(history(thread, ReplayLogPosition::Begin))
            }
            DebugStop::HistoryLost => {
                stderr::print_line(format_args!(
                    "gdb: there is no way back: the run did something else when it was run again, or was too long to \
                     be recorded"
                ));
                Some(history(thread, ReplayLogPosition::Begin))
            }
            DebugStop::Ended(end) => Some(self.ended(&end, ended_before)?),
        })
    }

    /// Returns the stop reason for Ctrl-C. The thread is one that gdb resumed, also if the request came before it ran.
    pub(super) fn interrupted(&self) -> StopReason {
        let current = self.debugger.current_vcpu();
        let vcpu = match &self.request {
            ResumeRequest::Forward(actions) if actions.get(current) == Some(&ResumeAction::Hold) => {
                actions.iter().position(|action| *action != ResumeAction::Hold).unwrap_or(current)
            }
            ResumeRequest::Forward(_) | ResumeRequest::StepBack | ResumeRequest::RunBack => current,
        };
        signal(thread_of(vcpu), Signal::SIGINT)
    }

    fn breakpoint(&self, vcpu: usize) -> Result<StopReason, Error> {
        let pc = self.debugger.pc(vcpu)?.0;
        let thread = thread_of(vcpu);
        Ok(if self.hard.contains(&pc) && !self.soft.contains(&pc) {
            StopReason::HwBreak(thread)
        } else {
            StopReason::SwBreak(thread)
        })
    }

    /// Returns the stop reason for the end of a run. A guest that died is first reported as stopped, and as terminated
    /// if resumed again.
    fn ended(&mut self, end: &End, again: bool) -> Result<StopReason, Error> {
        let verdict = self.debugger.verdict(end);
        let fatal = if let End::InternalError { .. } | End::Exception { vector: 6, .. } = end {
            Signal::SIGILL
        } else if let End::Exception { vector: 0, .. } = end {
            Signal::SIGFPE
        } else {
            Signal::SIGSEGV
        };
        match verdict {
            Verdict::Success | Verdict::Code(_) | Verdict::Hung => {
                Ok(StopReason::Exited(status_from_verdict(verdict, None).code()))
            }
            Verdict::Interrupted => Ok(StopReason::Terminated(Signal::SIGINT)),
            Verdict::Crashed if again => Ok(StopReason::Terminated(fatal)),
            Verdict::Crashed => {
                stderr::print_line(format_args!("gdb: the guest crashed: {end}"));
                if self.debugger.go_before_end()? {
                    stderr::print_line(format_args!(
                        "gdb: it is shown as it was before the instruction that did it"
                    ));
                }
                Ok(signal(thread_of(self.debugger.current_vcpu()), fatal))
            }
        }
    }

    fn packet(&self, thread: Tid) -> Result<RegisterPacket, Error> {
        Ok(RegisterPacket::from_state(&self.debugger.vcpu_state(vcpu_of(thread))?, self.layout))
    }

    fn write_packet(&mut self, thread: Tid, packet: &RegisterPacket) -> TargetResult<(), Self> {
        let (layout, mut applied) = (self.layout, Ok(()));
        let changed =
            self.debugger.change(vcpu_of(thread), &mut |state| applied = packet.apply(state, layout));
        changed.map_err(target_error)?;
        applied.map_err(|_| TargetError::Errno(EINVAL))
    }
}

const fn signal(tid: Tid, signal: Signal) -> StopReason {
    StopReason::SignalWithThread { tid, signal }
}

const fn history(tid: Tid, pos: ReplayLogPosition) -> StopReason {
    StopReason::ReplayLog { tid: Some(tid), pos }
}

fn target_error(error: EditError) -> TargetError<Error> {
    match error {
        EditError::Past | EditError::Ended => {
            stderr::print_line(format_args!("gdb: {error}"));
            TargetError::Errno(EROFS)
        }
        EditError::NotMapped(_) => TargetError::Errno(EFAULT),
        EditError::Host(error) => TargetError::Fatal(error),
    }
}

impl Target for Session<'_> {
    type Arch = X86;
    type Error = Error;

    fn base_ops(&mut self) -> BaseOps<'_, X86, Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }

    fn support_target_description_xml_override(
        &mut self,
    ) -> Option<TargetDescriptionXmlOverrideOps<'_, Self>> {
        Some(self)
    }
}

impl TargetDescriptionXmlOverride for Session<'_> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::NonFatal);
        }
        let xml = self.layout.description();
        let rest =
            usize::try_from(offset).ok().and_then(|offset| xml.as_bytes().get(offset..)).unwrap_or_default();
        let count = rest.len().min(length).min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(rest.iter().take(count)) {
            *place = *byte;
        }
        Ok(count)
    }
}

impl MultiThreadBase for Session<'_> {
    fn read_registers(&mut self, registers: &mut RegisterPacket, thread: Tid) -> TargetResult<(), Self> {
        *registers = self.packet(thread).map_err(TargetError::Fatal)?;
        Ok(())
    }

    fn write_registers(&mut self, registers: &RegisterPacket, thread: Tid) -> TargetResult<(), Self> {
        self.write_packet(thread, registers)
    }

    fn support_single_register_access(&mut self) -> Option<SingleRegisterAccessOps<'_, Tid, Self>> {
        Some(self)
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], thread: Tid) -> TargetResult<usize, Self> {
        match self.debugger.read(vcpu_of(thread), Gva(start), data).map_err(TargetError::Fatal)? {
            0 if !data.is_empty() => Err(TargetError::Errno(EFAULT)),
            count => Ok(count),
        }
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], thread: Tid) -> TargetResult<(), Self> {
        self.debugger.write(vcpu_of(thread), Gva(start), data).map_err(target_error)
    }

    fn list_active_threads(&mut self, thread_is_active: &mut dyn FnMut(Tid)) -> Result<(), Error> {
        (0..self.debugger.vcpu_count()).map(thread_of).for_each(thread_is_active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl ThreadExtraInfo for Session<'_> {
    fn thread_extra_info(&self, thread: Tid, buffer: &mut [u8]) -> Result<usize, Error> {
        let text = monitor::vcpu(&*self.debugger, vcpu_of(thread))?;
        let count = text.len().min(buffer.len());
        for (place, byte) in buffer.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        Ok(count)
    }
}

impl SingleRegisterAccess<Tid> for Session<'_> {
    fn read_register(
        &mut self,
        thread: Tid,
        number: RegisterNumber,
        buffer: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let packet = self.packet(thread).map_err(TargetError::Fatal)?;
        let range = RegisterPacket::range(self.layout, number).ok_or(TargetError::NonFatal)?;
        let value = packet.bytes.get(range).ok_or(TargetError::NonFatal)?;
        buffer.get_mut(..value.len()).ok_or(TargetError::NonFatal)?.copy_from_slice(value);
        Ok(value.len())
    }

    fn write_register(
        &mut self,
        thread: Tid,
        number: RegisterNumber,
        value: &[u8],
    ) -> TargetResult<(), Self> {
        let mut packet = self.packet(thread).map_err(TargetError::Fatal)?;
        let range = RegisterPacket::range(self.layout, number).ok_or(TargetError::NonFatal)?;
        let place = packet.bytes.get_mut(range).ok_or(TargetError::NonFatal)?;
        if place.len() != value.len() {
            return Err(TargetError::Errno(EINVAL));
        }
        place.copy_from_slice(value);
        self.write_packet(thread, &packet)
    }
}

impl MonitorCmd for Session<'_> {
    fn handle_monitor_cmd(&mut self, command: &[u8], mut out: ConsoleOutput<'_>) -> Result<(), Error> {
        let text = monitor::answer(self.debugger, self.files, &String::from_utf8_lossy(command))?;
        gdbstub::target::ext::monitor_cmd::output!(out, "{text}");
        Ok(())
    }
}
