//! The autopsy of a guest that died or hangs: what it did last, and why that was its end.
//!
//! KVM says that a guest shut down, and no word more; on AMD hosts even its registers are gone by then. So the run is
//! repeated: a machine is built again, led along the recorded exits ([`crate::replay`]), brought near the end, and
//! single-stepped into it. The state before the last step is examined: which fault must this instruction raise, and why
//! could nobody deliver it. A guest that hangs is examined the other way: its steps after the limit are sampled.
//!
//! | file | step |
//! |---|---|
//! | `moment.rs` | registers and memory between two instructions; fetching and decoding |
//! | `access.rs`, `segments.rs` | may the CPU touch this address, load this selector |
//! | `faults.rs` with `operands.rs`, `system.rs`, `transfer.rs` | which fault the next instruction raises |
//! | `fault.rs`, `delivery.rs`, `chain.rs` | a fault, its way through the IDT, and what follows when that fails |
//! | `narrow.rs` | near the end of a long run, with kicks and checkpoints |
//! | `trail.rs` | the last steps, one by one |
//! | `hang.rs`, `refusal.rs` | loops, storms and waiting; what KVM cannot emulate |
//! | `words.rs` | the cause in two or three sentences |
//!
//! What is reasoned is held against what is seen: a predicted fault that does not happen is forgotten, and registers that
//! the host kept are compared with those found. What could not be established is in the [notes](Autopsy::notes).

mod access;
pub mod chain;
pub mod delivery;
pub mod fault;
mod faults;
pub mod hang;
pub mod moment;
mod narrow;
mod operands;
pub mod refusal;
mod segments;
mod system;
mod tables;
pub mod trail;
mod transfer;
pub mod words;

use std::time::{Duration, Instant};

use crate::disassembly::Width;
use crate::end::{Access, End};
use crate::error::Error;
use crate::layout::Part;
use crate::machine::Machine;
use crate::record::Recording;
use crate::replay::{Divergence, Replayed, Replayer};
use crate::{Gpa, Gva};

use chain::Chain;
use delivery::GateFound;
use fault::Fault;
use hang::Hang;
use moment::{Fetched, Moment, Registers};
use refusal::Refusal;
pub use tables::{StackWord, Tables};
use trail::{Past, REMEMBERED, Raised, Trail, Walked};

/// Steps that are tried before the rest of the run is narrowed.
const FIRST_STEPS: u64 = 4000;

/// What a guest died of.
#[derive(Debug, Clone)]
pub struct Autopsy {
    /// How the run ended.
    pub end: End,
    /// The cause.
    pub cause: Cause,
    /// The registers before the instruction that ended the run.
    pub registers: Option<Registers>,
    /// That instruction; its bytes are missing where it could not be fetched.
    pub instruction: Option<Code>,
    /// The last instructions before it, the oldest first.
    pub before: Vec<Past>,
    /// Exceptions whose handlers had not returned, outermost first.
    pub open: Vec<Raised>,
    /// The exceptions that the last instruction led to.
    pub chain: Option<Chain>,
    /// The words on top of the stack.
    pub stack: Vec<StackWord>,
    /// GDT and IDT as they were found.
    pub tables: Option<Tables>,
    /// What else was noticed, and what could not be established.
    pub notes: Vec<Note>,
    /// How the state before the end was obtained.
    pub source: Source,
    /// How long it took.
    pub elapsed: Duration,
}

/// The cause of an end.
#[derive(Debug, Clone)]
pub enum Cause {
    /// An exception; the chain says the rest.
    Exception,
    /// An instruction that KVM could not execute.
    Refused(Refusal),
    /// Code was to be fetched from where no memory is.
    NoCode,
    /// The CPU refused the state.
    FailEntry {
        /// The hardware's reason.
        reason: u64,
    },
    /// HLT.
    Halt {
        /// Whether interrupts were on.
        interrupts: bool,
    },
    /// It did not end.
    Hang(Box<Hang>),
    /// An access to nothing, where that is not allowed.
    Stray(Access),
    /// The guest ended the run itself.
    Ended,
    /// Not found.
    Unknown,
}

/// An instruction in memory.
#[derive(Debug, Clone)]
pub struct Code {
    /// Its linear address.
    pub linear: u64,
    /// Its bytes; empty where they could not be fetched.
    pub bytes: Vec<u8>,
    /// The width of the code.
    pub width: Width,
}

/// How the state before the end was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// By running the guest again and stepping into the end.
    Replay {
        /// Exits that were replayed.
        exits: u64,
        /// Single steps.
        steps: u64,
    },
    /// From the registers at the end.
    Registers,
    /// From the frame that the CPU pushed.
    Frame,
}

/// Something noticed.
#[derive(Debug, Clone)]
pub enum Note {
    /// The guest left the recorded run when it was run again.
    Diverged(Divergence),
    /// The guest read a clock or random numbers, so another run may differ.
    Unrepeatable {
        /// What it read.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// Time was up.
    OutOfTime(Duration),
    /// The record of the run is not complete.
    Overflowed {
        /// Exits in it.
        recorded: u64,
        /// Exits of the run.
        seen: u64,
    },
    /// Single steps do not work here.
    NoSteps,
    /// The host kept the registers, and they are those found.
    Confirmed,
    /// The host kept the registers, and they differ from those found.
    Contradicted {
        /// The instruction pointer that the host kept, linear.
        kept: u64,
    },
    /// Who wrote something that turned out to be wrong.
    Writer {
        /// What was written.
        what: &'static str,
        /// The instruction.
        by: Past,
        /// How many instructions before the end.
        ago: u64,
        /// Whether it was a push, call or the like.
        stack: bool,
    },
    /// CR3 was loaded by one of the last instructions.
    RootChanged {
        /// The instruction.
        by: Past,
        /// The value of CR3.
        cr3: u64,
    },
    /// The CPU executes something of ours that is not code.
    CodeIn {
        /// What it is.
        part: &'static str,
        /// The last jump, and how many instructions before the end it was.
        jump: Option<(Past, u64)>,
    },
    /// The stack pointer points into something of ours.
    StackIn(&'static str),
    /// The host failed.
    Trouble(String),
}

/// Examines a run that ended. `build` gives the machine as it was at the start, on every call, with a console that goes
/// nowhere.
///
/// Never fails: what goes wrong on the way is noted, and the report says what is known.
pub fn examine(
    ended: &Machine,
    end: &End,
    recording: &Recording,
    build: &dyn Fn() -> Result<Machine, Error>,
    budget: Duration,
) -> Autopsy {
    let started = Instant::now();
    let mut autopsy = Autopsy {
        end: end.clone(),
        cause: Cause::Unknown,
        registers: None,
        instruction: None,
        before: Vec::new(),
        open: Vec::new(),
        chain: None,
        stack: Vec::new(),
        tables: None,
        notes: Vec::new(),
        source: Source::Registers,
        elapsed: Duration::ZERO,
    };
    let result = match end {
        End::TimeLimit(_) | End::ExitLimit(_) | End::Interrupted => autopsy.of_hang(ended, build, budget),
        End::Halt { .. }
        | End::WayBack
        | End::Exit { .. }
        | End::Shutdown
        | End::InternalError { .. }
        | End::FailEntry { .. }
        | End::Exception { .. }
        | End::Unmapped(_)
        | End::SystemEvent { .. }
        | End::Unserved(_) => autopsy.of_end(ended, recording, build, budget),
    };
    if let Err(error) = result {
        autopsy.notes.push(Note::Trouble(error.to_string()));
    }
    autopsy.elapsed = started.elapsed();
    autopsy
}

/// A run that was led to its end again.
struct Retraced<'a> {
    replayer: Replayer<'a>,
    trail: Trail,
    before: Registers,
}

impl Autopsy {
    /// A run that came to an end by itself.
    fn of_end(
        &mut self,
        ended: &Machine,
        recording: &Recording,
        build: &dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<(), Error> {
        let found = Registers::of(ended)?;
        let framed = self.frame(&found);
        // KVM keeps them on some hosts, and puts the vCPU into its reset state on others.
        let reset = found.regs.rip == 0xfff0 && found.sregs.cs.selector == 0xf000;
        let kept = (self.end != End::Shutdown || !reset).then_some(found);
        let steppable = !(refusal::interprets_all() && framed.as_ref().or(kept.as_ref()).is_some_and(in_user_mode));
        let retraced = if steppable {
            self.retrace(recording, build, budget)?
        } else {
            self.notes.push(Note::NoSteps);
            None
        };
        match retraced {
            Some(Retraced { replayer, mut trail, before }) => {
                if let End::InternalError { .. } = self.end {
                    trail.count_last_as_delivered(&before, found.linear_rip());
                }
                self.source = Source::Replay { exits: replayer.exits(), steps: trail.steps };
                let state = match self.end {
                    // The vCPU still stands where KVM gave up.
                    End::InternalError { .. } | End::FailEntry { .. } => found,
                    End::Halt { .. }
                    | End::WayBack
                    | End::Exit { .. }
                    | End::Shutdown
                    | End::Unmapped(_)
                    | End::SystemEvent { .. }
                    | End::TimeLimit(_)
                    | End::ExitLimit(_)
                    | End::Interrupted
                    | End::Unserved(_) => before,
                    // Some hosts step into the landing page before the run ends there.
                    End::Exception { .. } => framed.unwrap_or(before),
                };
                trail.end_before(&state);
                self.compare(kept.as_ref(), &state);
                if let Some((what, at)) = trail.unrepeatable {
                    self.notes.push(Note::Unrepeatable { what, at });
                }
                self.judge(replayer.machine(), &state, Some(&trail));
            }
            None => {
                if let Some(state) = framed {
                    self.source = Source::Frame;
                    self.judge(ended, &state, None);
                } else if let Some(state) = kept {
                    let state = self.at_halt(state);
                    self.judge(ended, &state, None);
                }
            }
        }
        Ok(())
    }

    /// The registers in ring 3, out of the frame on the landing page's stack.
    fn frame(&self, found: &Registers) -> Option<Registers> {
        let End::Exception { frame: Some(frame), .. } = &self.end else { return None };
        let mut state = *found;
        (state.regs.rip, state.regs.rsp, state.regs.rflags) = (frame.rip, frame.rsp, frame.rflags);
        let width = state.width();
        for segment in [&mut state.sregs.cs, &mut state.sregs.ss] {
            segment.dpl = 3;
        }
        debug_assert_eq!(width, state.width());
        Some(state)
    }

    /// After HLT the instruction pointer is behind it.
    const fn at_halt(&self, mut state: Registers) -> Registers {
        if let End::Halt { .. } = self.end {
            state.regs.rip = state.regs.rip.wrapping_sub(1);
        }
        state
    }

    /// Leads a new machine to the end of the run.
    fn retrace<'a>(
        &mut self,
        recording: &'a Recording,
        build: &'a dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<Option<Retraced<'a>>, Error> {
        if recording.overflowed() {
            self.notes.push(Note::Overflowed { recorded: recording.exits(), seen: recording.seen() });
            return Ok(None);
        }
        let mut replayer = Replayer::new(build, recording)?;
        replayer.set_budget(budget)?;
        let last = recording.exits().saturating_sub(1);
        // Some exits earlier first: between the last one and the end there may be fewer instructions than are shown.
        let early = last.saturating_sub(REMEMBERED as u64);
        for (exits, steps) in [(early, FIRST_STEPS), (last, FIRST_STEPS), (last, u64::MAX)] {
            let narrow = steps == u64::MAX;
            if replayer.exits() > 0 || replayer.machine().exits.total() > 0 {
                replayer.restart()?;
            }
            let mut trail = Trail::default();
            match replayer.replay_to(exits)? {
                Replayed::Served => {}
                Replayed::OutOfTime => return Ok(self.out_of_time(budget)),
                Replayed::Ended(_) | Replayed::Diverged | Replayed::Debug(_) | Replayed::Kicked => {
                    return Ok(self.diverged(&replayer));
                }
            }
            let from = replayer.mark()?;
            if narrow {
                match narrow::approach(&mut replayer, from)? {
                    narrow::Narrowed::Near => {}
                    narrow::Narrowed::Diverged => return Ok(self.diverged(&replayer)),
                    narrow::Narrowed::OutOfTime => return Ok(self.out_of_time(budget)),
                }
            }
            match trail.follow(&mut replayer, steps)? {
                Walked::Ended { end, before } if same_end(&end, &self.end) => {
                    return Ok(Some(Retraced { replayer, trail, before: *before }));
                }
                Walked::Enough => replayer.restart()?,
                Walked::OutOfTime => return Ok(self.out_of_time(budget)),
                Walked::Ended { .. } | Walked::Diverged | Walked::Stuck(_) | Walked::Circle(_) => {
                    return Ok(self.diverged(&replayer));
                }
            }
        }
        Ok(None)
    }

    fn out_of_time<T>(&mut self, budget: Duration) -> Option<T> {
        self.notes.push(Note::OutOfTime(budget));
        None
    }

    fn diverged<T>(&mut self, replayer: &Replayer<'_>) -> Option<T> {
        match replayer.divergence() {
            Some(divergence) => self.notes.push(Note::Diverged(divergence)),
            None => self.notes.push(Note::Trouble("the guest came to another end when it was run again".to_owned())),
        }
        None
    }

    /// Holds what was found against what the host kept.
    fn compare(&mut self, kept: Option<&Registers>, state: &Registers) {
        if let (End::Shutdown, Some(kept)) = (&self.end, kept) {
            self.notes.push(if kept.linear_rip() == state.linear_rip() {
                Note::Confirmed
            } else {
                Note::Contradicted { kept: kept.linear_rip() }
            });
        }
    }

    /// Works out the cause from the state before the end.
    fn judge(&mut self, machine: &Machine, state: &Registers, trail: Option<&Trail>) {
        let moment = Moment::of(machine, state);
        let fetched = moment.fetch();
        self.describe(&moment, &fetched, trail);
        let fault = moment.fault_of(&fetched);
        self.cause = match &self.end {
            End::Shutdown => {
                let suspected = match &fetched {
                    Fetched::Instruction(instruction, _) => moment.suspicion(instruction),
                    Fetched::Invalid(_) | Fetched::Fault(_) | Fetched::NoMemory => None,
                };
                self.chain = fault.or(suspected).map(|fault| moment.chain(fault));
                if self.chain.is_some() { Cause::Exception } else { Cause::Unknown }
            }
            End::Exception { vector, frame } => {
                let code = frame.and_then(|frame| frame.error_code);
                self.chain = Some(ring3_chain(&moment, fault, *vector, code));
                Cause::Exception
            }
            End::InternalError { .. } => match &fetched {
                Fetched::Instruction(instruction, _) if fault.as_ref().is_none_or(|fault| fault.software) => {
                    Cause::Refused(refusal::of(&moment, instruction))
                }
                Fetched::NoMemory => Cause::NoCode,
                Fetched::Instruction(..) | Fetched::Invalid(_) | Fetched::Fault(_) => {
                    self.chain = fault.map(|fault| moment.chain(fault));
                    if self.chain.is_some() { Cause::Exception } else { Cause::Unknown }
                }
            },
            End::FailEntry { reason, .. } => Cause::FailEntry { reason: *reason },
            End::Halt { interrupts } => Cause::Halt { interrupts: *interrupts },
            End::Unmapped(access) => Cause::Stray(*access),
            End::WayBack | End::Exit { .. } | End::SystemEvent { .. } => Cause::Ended,
            End::TimeLimit(_) | End::ExitLimit(_) | End::Interrupted | End::Unserved(_) => Cause::Unknown,
        };
        self.look_around(&moment, machine, trail);
    }

    /// Fills in what every report shows.
    fn describe(&mut self, moment: &Moment<'_>, fetched: &Fetched, trail: Option<&Trail>) {
        let registers = moment.registers;
        let bytes = match fetched {
            Fetched::Instruction(_, bytes) | Fetched::Invalid(bytes) => bytes.clone(),
            Fetched::Fault(_) | Fetched::NoMemory => Vec::new(),
        };
        self.instruction = Some(Code { linear: registers.linear_rip(), bytes, width: registers.width() });
        self.registers = Some(*registers);
        self.stack = tables::stack(moment);
        self.tables = Some(tables::found(moment));
        if let Some(trail) = trail {
            self.before = trail.past.iter().cloned().collect();
            self.open = trail.open.clone();
        }
    }

    /// Who wrote what turned out to be wrong, and where the stack points.
    fn look_around(&mut self, moment: &Moment<'_>, machine: &Machine, trail: Option<&Trail>) {
        if let Some(part) = table_at(machine, moment, moment.registers.linear_stack()) {
            self.notes.push(Note::StackIn(part));
        }
        if let Some(part) = table_at(machine, moment, moment.registers.linear_rip()) {
            let jump = trail.and_then(|trail| trail.last_jump.clone());
            let jump = jump.zip(trail).map(|((by, step), trail)| (by, trail.steps.saturating_sub(step)));
            self.notes.push(Note::CodeIn { part, jump });
        }
        let (Some(trail), Some(chain)) = (trail, &self.chain) else { return };
        let mut notes = Vec::new();
        for link in &chain.links {
            if let Some(step) = link.fault.walk.as_ref().and_then(|walk| walk.steps.last()) {
                notes.extend(writer(trail, "page table entry", step.at, step.scheme.entry_bytes()));
            }
            if let Some(GateFound::Gate { at, .. } | GateFound::Vector { at, .. }) = link.delivery.gate
                && let Some(to) = moment.walker().walk(moment.memory, Gva(at)).translation()
            {
                let size = if moment.registers.is_long() { 16 } else { 4 };
                notes.extend(writer(trail, "gate", to.gpa, size));
            }
        }
        notes.truncate(1);
        self.notes.extend(notes);
        let loads_root = |past: &&Past| tables::writes_cr3(past);
        let paged = chain.links.first().is_some_and(|link| link.fault.vector == 14);
        if let Some(by) = trail.past.iter().rev().take(3).find(loads_root).filter(|_| paged) {
            self.notes.push(Note::RootChanged { by: by.clone(), cr3: moment.registers.sregs.cr3 });
        }
    }

    /// A run that a limit ended.
    fn of_hang(
        &mut self,
        ended: &Machine,
        build: &dyn Fn() -> Result<Machine, Error>,
        budget: Duration,
    ) -> Result<(), Error> {
        let state = Registers::of(ended)?;
        if refusal::interprets_all() && in_user_mode(&state) {
            self.notes.push(Note::NoSteps);
            self.judge(ended, &state, None);
            self.cause = Cause::Hang(Box::new(hang::at_rest(ended, &state)));
            return Ok(());
        }
        let (found, trail) = hang::sample(ended, build, budget)?;
        self.judge(ended, &state, Some(&trail));
        self.cause = Cause::Hang(Box::new(found));
        Ok(())
    }
}

/// 64-bit code in ring 3: the only one that runs natively where KVM interprets the rest.
fn in_user_mode(registers: &Registers) -> bool {
    registers.cpl() == 3 && registers.width() == Width::Bits64
}

/// The table of ours that a linear address leads to.
fn table_at(machine: &Machine, moment: &Moment<'_>, linear: u64) -> Option<&'static str> {
    let gpa = moment.walker().walk(moment.memory, Gva(linear)).translation().map_or(Gpa(linear), |to| to.gpa);
    let placed = machine.layout.ranges().iter().find(|placed| placed.range.start() <= gpa && gpa < placed.range.end())?;
    match placed.part()? {
        Part::Stack | Part::KernelStack | Part::Landing => None,
        part @ (Part::Gdt | Part::Idt | Part::Tss | Part::PageTables) => Some(part.name()),
    }
}

/// Ends of the same kind.
fn same_end(one: &End, other: &End) -> bool {
    one.name() == other.name()
}

fn writer(trail: &Trail, what: &'static str, gpa: Gpa, size: u64) -> Option<Note> {
    let (by, ago) = trail.writer(gpa, size)?;
    Some(Note::Writer { what, by: by.clone(), ago, stack: tables::is_push(by) })
}

/// The exception that the landing page took: as predicted if that fits, else from what the CPU pushed.
fn ring3_chain(moment: &Moment<'_>, predicted: Option<Fault>, vector: u8, code: Option<u64>) -> Chain {
    if let Some(fault) = predicted {
        let chain = moment.chain(fault);
        if chain.links.last().is_some_and(|link| link.fault.vector == vector) {
            return chain;
        }
    }
    let code = code.and_then(|code| u32::try_from(code).ok());
    let mut fault = Fault::new(vector, code, "the CPU says so, and the state before it does not show why");
    if vector == 14 {
        let at = moment.registers.sregs.cr2;
        let walk = moment.walker().walk(moment.memory, Gva(at));
        fault = Fault { address: Some(at), why: format!("it touched {at:#x}"), walk: Some(walk), ..fault };
    }
    moment.chain(fault)
}

