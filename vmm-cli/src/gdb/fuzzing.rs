//! A session of gdb without KVM: any bytes for gdbstub, and a debugger that holds its guest in memory.
#![expect(clippy::unwrap_used, reason = "a fuzz target reports by a panic")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use gdbstub::conn::Connection;
use gdbstub::stub::GdbStub;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use vmm_core::Gva;
use vmm_core::cpu::cpu_state::{CpuState, OperandWidth};
use vmm_core::debugger::{
    DebugCapabilities, DebugStop, DebugTarget, EditError, Finished, InterruptHandle, ResumeAction,
    ResumeRequest, StepIntoHandler,
};
use vmm_core::kvm_sys_wrap::{Breakpoint, MpState, Vcpu, VcpuState};
use vmm_core::machine::Machine;
use vmm_core::machine::end::{End, Verdict};
use vmm_core::machine::error::Error;
use vmm_core::spec::{HaltPolicy, ResetPolicy};

use super::registers::RegisterPacket;
use super::target::Session;
use super::target_xml::RegisterLayout;
use crate::snapshot_file::fuzzing::GoldenMachine;

/// Guest memory that is mapped.
const MEMORY: std::ops::Range<u64> = 0x1000..0x2000;
/// Maximum number of breakpoints.
const MAX_BREAKPOINTS: usize = 32;
/// Maximum number of watchpoints.
const MAX_WATCHPOINTS: usize = 4;
/// Monitor commands that need a machine, in the hexadecimal form of packets: `exits`, `pages`, `explain`.
const NEED_MACHINE: [&[u8]; 3] = [b"6578697473", b"7061676573", b"6578706c61696e"];

thread_local! {
    static MACHINE: (GoldenMachine, VcpuState) = (GoldenMachine::new(), GoldenMachine::vcpu_state());
}

/// Checks a session: the first byte chooses the guest, the next eight are the reasons for which it stops, the rest is from gdb: all
/// bytes, or packets with `#` between them, whose frames and checksums are added.
pub fn gdb(bytes: &[u8]) {
    let (header, bytes) = bytes.split_at_checked(9).unwrap_or((bytes, &[]));
    let Some((kind, stops)) = header.split_first() else { return };
    let framed = if kind & 0x10 == 0 { framed(bytes) } else { bytes.to_vec() };
    let bytes = framed.as_slice();
    let lower = bytes.to_ascii_lowercase();
    if NEED_MACHINE.iter().any(|command| lower.windows(command.len()).any(|part| part == *command)) {
        return;
    }
    MACHINE.with(|(machine, state)| {
        let placed = Rc::default();
        let mut debugger = MemoryDebugger::new(*kind, stops.to_vec(), state, Rc::clone(&placed));
        let code = match kind & 3 {
            0 => OperandWidth::Bits16,
            1 => OperandWidth::Bits32,
            _ => OperandWidth::Bits64,
        };
        let mut session = Session::new(&mut debugger, &machine.prepared.files, RegisterLayout { code });
        let mut answers = Vec::new();
        run(&mut session, bytes, &mut answers);
        check_answers(&answers);

        let wanted: BTreeSet<u64> = session.soft.union(&session.hard).copied().collect();
        assert_eq!(placed.borrow().breakpoints, wanted, "other breakpoints than gdb's");
        for (watchpoint, _) in &session.watched {
            assert!(
                placed.borrow().watchpoints.contains(watchpoint),
                "gdb's watchpoint {watchpoint:?} is gone"
            );
        }
        session.clear();
        let placed = placed.borrow();
        assert!(placed.breakpoints.is_empty() && placed.watchpoints.is_empty(), "left after the session");
    });
}

/// Returns packets with frames and checksums. Ctrl-C (0x03) has none.
fn framed(packets: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for packet in packets.split(|byte| *byte == b'#') {
        if packet == [0x03] {
            bytes.extend(packet);
            continue;
        }
        let sum = packet.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        bytes.push(b'$');
        bytes.extend(packet);
        bytes.extend(format!("#{sum:02x}").into_bytes());
    }
    bytes
}

/// Feeds the bytes to gdbstub. A guest that runs stops, or gdb sends a byte first.
fn run(session: &mut Session<'_>, bytes: &[u8], answers: &mut Vec<u8>) {
    let Ok(mut gdb) = GdbStub::new(Answers(answers)).run_state_machine(session) else { return };
    let mut bytes = bytes.iter();
    loop {
        let next = match gdb {
            GdbStubStateMachine::Idle(gdb) => {
                let Some(byte) = bytes.next() else { return };
                gdb.incoming_data(session, *byte)
            }
            GdbStubStateMachine::Running(gdb) => match session.resume_until_stop().unwrap() {
                Some(reason) => gdb.report_stop(session, reason),
                None => {
                    let Some(byte) = bytes.next() else { return };
                    gdb.incoming_data(session, *byte)
                }
            },
            GdbStubStateMachine::CtrlCInterrupt(gdb) => {
                let reason = session.interrupted();
                gdb.interrupt_handled(session, Some(reason))
            }
            GdbStubStateMachine::Disconnected(_) => return,
        };
        gdb = match next {
            Ok(gdb) => gdb,
            Err(error) => {
                assert!(!error.is_target_error(), "an error of the host that there was none of: {error}");
                return;
            }
        };
    }
}

/// Connection that keeps the answers.
struct Answers<'a>(&'a mut Vec<u8>);

impl Connection for Answers<'_> {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// Checks that the answers are acknowledgements and packets (gdb manual, "Remote Protocol", "Overview").
fn check_answers(answers: &[u8]) {
    let mut rest = answers.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'$' {
            assert!(byte == b'+' || byte == b'-', "{byte:#x} is between packets");
            continue;
        }
        let mut sum = 0_u8;
        // The last packet may be incomplete.
        loop {
            match rest.next() {
                Some(b'#') => break,
                Some(byte) => sum = sum.wrapping_add(byte),
                None => return,
            }
        }
        let (Some(high), Some(low)) = (rest.next(), rest.next()) else { return };
        assert_eq!([high, low].as_slice(), format!("{sum:02x}").as_bytes(), "checksum of a packet");
    }
}

/// Debugger of a guest in memory. It stops for reasons in a list, and executes nothing.
struct MemoryDebugger {
    states: Vec<VcpuState>,
    memory: Vec<u8>,
    is_recorded: bool,
    is_in_past: bool,
    current: usize,
    stops: Vec<u8>,
    next_stop: usize,
    end: Option<End>,
    placed: Rc<RefCell<PlacedBreakpoints>>,
}

/// Breakpoints and watchpoints of a debugger.
#[derive(Debug, Default)]
struct PlacedBreakpoints {
    breakpoints: BTreeSet<u64>,
    watchpoints: Vec<Breakpoint>,
}

impl MemoryDebugger {
    fn new(kind: u8, stops: Vec<u8>, state: &VcpuState, placed: Rc<RefCell<PlacedBreakpoints>>) -> Self {
        let mut second = state.clone();
        second.regs.rip = 0x1010;
        second.sregs.cs.l = 1;
        second.sregs.efer |= 1 << 10;
        Self {
            states: if kind & 4 == 0 { vec![state.clone()] } else { vec![state.clone(), second] },
            memory: (0..0x1000_u16).map(|at| at.to_le_bytes()[0]).collect(),
            is_recorded: kind & 8 == 0,
            is_in_past: false,
            current: 0,
            stops,
            next_stop: 0,
            end: None,
            placed,
        }
    }

    fn state(&self, vcpu: usize) -> &VcpuState {
        self.states.get(vcpu).or(self.states.get(self.current)).unwrap()
    }

    /// Returns the mapped part of a range: its offset, and how many bytes of it are mapped.
    fn mapped(address: Gva, length: usize) -> (usize, usize) {
        let Some(offset) = address.0.checked_sub(MEMORY.start).filter(|_| MEMORY.contains(&address.0)) else {
            return (0, 0);
        };
        let rest = usize::try_from(MEMORY.end - address.0).unwrap();
        (usize::try_from(offset).unwrap(), length.min(rest))
    }
}

impl DebugTarget for MemoryDebugger {
    fn machine(&self) -> &Machine {
        unreachable!("the guest has no machine")
    }

    fn capabilities(&self) -> DebugCapabilities {
        DebugCapabilities {
            has_interrupts: false,
            hardware_breakpoints: true,
            watchpoints: self.is_recorded,
            single_step: true,
            block_interrupts: true,
            handlers: StepIntoHandler::Reached,
            trap_byte: None,
        }
    }

    fn interrupt_handle(&self) -> InterruptHandle {
        unreachable!("no thread interrupts the guest")
    }

    fn stop_if(&mut self, _: Box<dyn Fn() -> bool + Send + Sync>) {}

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn verdict(&self, end: &End) -> Verdict {
        end.verdict(HaltPolicy::default(), ResetPolicy::default())
    }

    fn exits(&self) -> u64 {
        u64::try_from(self.next_stop).unwrap()
    }

    fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    fn is_in_past(&self) -> bool {
        self.is_in_past
    }

    fn vcpu_count(&self) -> usize {
        self.states.len()
    }

    fn current_vcpu(&self) -> usize {
        self.current
    }

    fn vcpu(&self, _: usize) -> &Vcpu {
        unreachable!("the guest has no machine")
    }

    fn vcpu_state(&self, vcpu: usize) -> Result<VcpuState, Error> {
        Ok(self.state(vcpu).clone())
    }

    fn mp_state(&self, vcpu: usize) -> Result<Option<MpState>, Error> {
        Ok(match (self.is_recorded, vcpu) {
            (true, _) => None,
            (false, 0) => Some(MpState::Runnable),
            (false, _) => Some(MpState::Halted),
        })
    }

    fn registers(&self, vcpu: usize) -> Result<CpuState, Error> {
        let VcpuState { regs, sregs, .. } = self.state(vcpu);
        Ok(CpuState { regs: *regs, sregs: *sregs })
    }

    fn change(&mut self, vcpu: usize, change: &mut dyn FnMut(&mut VcpuState)) -> Result<(), EditError> {
        self.check_editable()?;
        // As the debuggers do: without such a vCPU, the one that stopped last.
        let vcpu = if vcpu < self.states.len() { vcpu } else { self.current };
        let state = self.states.get_mut(vcpu).unwrap();
        let before = state.clone();
        change(state);
        // Segments and control registers are read-only to gdb.
        assert_eq!((before.sregs.cr0, before.sregs.cs), (state.sregs.cr0, state.sregs.cs));
        let layout = RegisterLayout { code: OperandWidth::Bits64 };
        assert!(!RegisterPacket::from_state(state, layout).bytes.is_empty());
        Ok(())
    }

    fn read(&self, _: usize, address: Gva, data: &mut [u8]) -> Result<usize, Error> {
        let (offset, length) = Self::mapped(address, data.len());
        for (to, from) in data.iter_mut().zip(self.memory.iter().skip(offset)).take(length) {
            *to = *from;
        }
        Ok(length)
    }

    fn write(&mut self, _: usize, address: Gva, data: &[u8]) -> Result<(), EditError> {
        self.check_editable()?;
        let (offset, length) = Self::mapped(address, data.len());
        for (to, from) in self.memory.iter_mut().skip(offset).zip(data).take(length) {
            *to = *from;
        }
        if length == data.len() { Ok(()) } else { Err(EditError::NotMapped(address)) }
    }

    fn add_breakpoint(&mut self, address: Gva) -> Result<bool, Error> {
        let breakpoints = &mut self.placed.borrow_mut().breakpoints;
        let fits = breakpoints.len() < MAX_BREAKPOINTS || breakpoints.contains(&address.0);
        if fits {
            breakpoints.insert(address.0);
        }
        Ok(fits)
    }

    fn remove_breakpoint(&mut self, address: Gva) -> bool {
        self.placed.borrow_mut().breakpoints.remove(&address.0)
    }

    fn add_watchpoint(&mut self, watchpoint: Breakpoint) -> Result<bool, Error> {
        let watchpoints = &mut self.placed.borrow_mut().watchpoints;
        let fits = watchpoints.len() < MAX_WATCHPOINTS;
        if fits {
            watchpoints.push(watchpoint);
        }
        Ok(fits)
    }

    fn remove_watchpoint(&mut self, watchpoint: Breakpoint) -> bool {
        let watchpoints = &mut self.placed.borrow_mut().watchpoints;
        let known = watchpoints.iter().position(|known| *known == watchpoint);
        known.map(|at| watchpoints.remove(at)).is_some()
    }

    fn resume(&mut self, request: &ResumeRequest) -> Result<(usize, DebugStop), Error> {
        if let ResumeRequest::Forward(actions) = request {
            assert_eq!(actions.len(), self.states.len());
            let range = actions.iter().find_map(|action| match action {
                ResumeAction::Range(start, end) => Some((*start, *end)),
                ResumeAction::Hold | ResumeAction::Run | ResumeAction::Step => None,
            });
            if let (Some((start, _)), Some(state)) = (range, self.states.first_mut()) {
                state.regs.rip = start;
            }
        }
        let stop = self.stops.get(self.next_stop % self.stops.len().max(1)).copied().unwrap_or(0);
        self.next_stop = self.next_stop.saturating_add(1);
        self.current = usize::from(stop >> 7) % self.states.len();
        self.is_in_past = self.is_recorded && !matches!(request, ResumeRequest::Forward(_));
        let stop = match stop & 0x7f {
            0 => DebugStop::Interrupted,
            1 => DebugStop::Breakpoint,
            2 => match self.placed.borrow().watchpoints.first() {
                Some(watchpoint) => DebugStop::Watchpoint(*watchpoint),
                None => DebugStop::Step,
            },
            3 => DebugStop::GuestInt3,
            4 => DebugStop::CannotStep,
            5 => DebugStop::HistoryStart,
            6 => DebugStop::HistoryLost,
            kind @ 7..16 => {
                let ends = [
                    End::Halt { interrupts: false },
                    End::Shutdown,
                    End::Exit { code: 0x1234 },
                    End::Interrupted,
                    End::InternalError { suberror: 1, data: vec![7; 3] },
                    End::Exception { vector: 0, frame: None },
                    End::Exception { vector: 14, frame: None },
                    End::TimeLimit(Duration::from_secs(1)),
                    End::Reset,
                ];
                let end = ends.into_iter().nth(usize::from(kind - 7)).unwrap();
                let end = self.end.get_or_insert(end).clone();
                DebugStop::Ended(end)
            }
            _ => DebugStop::Step,
        };
        Ok((self.current, stop))
    }

    fn go_before_end(&mut self) -> Result<bool, Error> {
        self.is_in_past = self.is_recorded;
        Ok(self.is_recorded)
    }

    fn finish(self: Box<Self>) -> Result<Finished, Error> {
        unreachable!("the guest has no machine")
    }

    fn abandon(self: Box<Self>) -> Result<Finished, Error> {
        unreachable!("the guest has no machine")
    }
}
