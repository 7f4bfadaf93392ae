//! Renders an autopsy: first the cause, then the evidence.
//!
//! vmm-core makes the autopsy ([`vmm_core::autopsy`]), and the guest's files give the names of addresses. The JSON form
//! has these keys; more may come, none go:
//!
//! | key | value |
//! |---|---|
//! | `cause` | first paragraph of the report, which `[expect] cause` is checked against |
//! | `source` | method by which the state before the end was obtained |
//! | `instruction` | instruction that ended the run: `address`, `name` (symbol and line), `text`, `bytes` |
//! | `before` | previous instructions, oldest first: the same keys, `changed` (registers and their new values), `times` for repeated ones, `raised` |
//! | `exceptions` | exception chain: `vector`, `name`, `why`, `error-code`, `error-code-words`, `address` (CR2), `walk`, `gate`, `result` |
//! | `stack` | words from the stack pointer up: `address`, `value`, `name` |
//! | `gdt`, `idt` | `base`, `limit`, and `entries` that are not empty |
//! | `notes` | further observations, and facts that could not be established |
//! | `elapsed-ns` | duration of the autopsy |

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use vmm_core::autopsy::delivery::{DeliveryOutcome, IdtEntry};
use vmm_core::autopsy::exception_chain::ChainLink;
use vmm_core::autopsy::instruction_trace::TracedInstruction;
use vmm_core::autopsy::{self, Cause, summary};
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::cpu::descriptor::SegmentDescriptor;
use vmm_core::devices::console::Console;
use vmm_core::kvm_sys_wrap::bindings::kvm_regs;
use vmm_core::machine::Machine;
use vmm_core::machine::end::{End, Verdict};
use vmm_core::record::Recording;
use vmm_core::spec::{MachineSpec, Register, RegisterFile};

use crate::config::Config;
use crate::expectations::Mismatch;
use crate::prepare::Files;
use crate::wrap::{TEXT_WIDTH, wrap};

/// Maximum duration of an autopsy.
const AUTOPSY_TIMEOUT: Duration = Duration::from_secs(30);

/// A rendered autopsy.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AutopsyReport {
    cause: String,
    source: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    instruction: Option<InstructionRow>,
    before: Vec<InstructionRow>,
    exceptions: Vec<ExceptionRow>,
    stack: Vec<StackWord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gdt: Option<TableReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    idt: Option<TableReport>,
    notes: Vec<String>,
    elapsed_ns: u128,
    #[serde(skip)]
    registers: Option<CpuState>,
    #[serde(skip)]
    symbol: Option<String>,
    /// True if the run ended by itself: then only its location is shown.
    #[serde(skip)]
    short: bool,
}

/// Instruction.
#[derive(Debug, Serialize)]
struct InstructionRow {
    address: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    text: String,
    bytes: Vec<u8>,
    #[serde(skip_serializing_if = "is_once")]
    times: u64,
    /// Registers that the instruction changed.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    changed: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raised: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
const fn is_once(times: &u64) -> bool {
    *times == 1
}

/// One exception of the chain.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct ExceptionRow {
    vector: u8,
    name: String,
    why: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code_words: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    walk: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gate: Option<String>,
    result: String,
}

#[derive(Debug, Serialize)]
struct StackWord {
    address: u64,
    value: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
}

#[derive(Debug, Serialize)]
struct TableReport {
    base: u64,
    limit: u16,
    entries: Vec<String>,
}

/// Returns true if a run is to be examined: the guest died, hangs, or did not meet `[expect]`.
pub(crate) fn is_wanted(
    verdict: Verdict,
    end: &End,
    config: &Config,
    mismatches: Option<&[Mismatch]>,
) -> bool {
    let asked = config.expect.as_ref().is_some_and(|expect| !expect.cause.is_empty());
    match verdict {
        // The end already tells why a suspended machine cannot wake, and a run with an alarm cannot be replayed.
        Verdict::Crashed | Verdict::Hung => asked || !matches!(end, End::Suspend(_)),
        Verdict::Success | Verdict::Code(_) => asked || mismatches.is_some_and(|list| !list.is_empty()),
        // After Ctrl-C the user expects the prompt at once.
        Verdict::Interrupted => false,
    }
}

/// Examines a finished run.
pub(crate) fn perform(ended: &Machine, end: &End, recording: &Recording, files: &Files) -> AutopsyReport {
    // Calls of the replay are not part of a trace.
    let kvm = ended.vcpu().vm().kvm().unobserved();
    let build = |irqchip| {
        let console = Console::with_output(std::io::sink());
        match ended.origin() {
            Some(snapshot) => snapshot.machine(&kvm, console),
            None => Machine::build(&kvm, MachineSpec { irqchip, ..ended.spec().clone() }, files, console),
        }
    };
    let found = autopsy::examine(ended, end, recording, &build, AUTOPSY_TIMEOUT);
    render(&found, files)
}

fn render(found: &autopsy::Autopsy, files: &Files) -> AutopsyReport {
    let names = |address: u64| files.describe(address);
    let links = found.chain.iter().flat_map(|chain| &chain.links);
    let table = |(base, limit), entries| TableReport { base, limit, entries };
    let instruction = found.instruction.as_ref().map(|code| InstructionRow {
        address: code.linear,
        name: names(code.linear),
        text: summary::disassemble(&code.bytes, code.width, code.linear),
        bytes: code.bytes.clone(),
        times: 1,
        changed: BTreeMap::new(),
        raised: None,
    });
    AutopsyReport {
        cause: found.summary(&names),
        source: found.describe_source(),
        instruction,
        before: before(found, files),
        exceptions: links.map(exception).collect(),
        stack: found
            .stack
            .iter()
            .map(|word| StackWord {
                address: word.address,
                value: word.value,
                name: files.symbol_at(word.value),
            })
            .collect(),
        gdt: found.tables.as_ref().map(|tables| {
            let entry =
                |(selector, descriptor): &(u16, SegmentDescriptor)| format!("{selector:#06x}: {descriptor}");
            table(tables.gdt, tables.descriptors.iter().map(entry).collect())
        }),
        idt: found.tables.as_ref().map(|tables| table(tables.idt, gate_lines(&tables.gates))),
        notes: found.describe_notes(&names),
        elapsed_ns: found.elapsed.as_nanos(),
        registers: found.registers,
        symbol: found.instruction.as_ref().and_then(|code| files.symbol_at(code.linear)),
        short: matches!(found.cause, Cause::GuestExit | Cause::Halt { .. }),
    }
}

/// Returns the previous instructions, each with the registers that it changed.
fn before(found: &autopsy::Autopsy, files: &Files) -> Vec<InstructionRow> {
    let after = found.previous_instructions.iter().skip(1).map(|past| past.regs);
    let after = after.chain(found.registers.map(|registers| registers.regs));
    found.previous_instructions.iter().zip(after).map(|(past, after)| line(past, &after, files)).collect()
}

fn line(past: &TracedInstruction, after: &kvm_regs, files: &Files) -> InstructionRow {
    let differs = |register: &&Register| past.regs.get(**register) != after.get(**register);
    let changed =
        Register::ALL.iter().filter(|register| !matches!(register, Register::Rip | Register::Rflags));
    InstructionRow {
        address: past.linear,
        name: files.describe(past.linear),
        text: summary::disassemble(&past.bytes, past.width, past.linear),
        bytes: past.bytes.clone(),
        times: past.repetitions,
        changed: changed.filter(differs).map(|register| (register.name(), after.get(*register))).collect(),
        raised: past
            .raised
            .as_ref()
            .map(|raised| format!("{}, to {:#x}", raised.fault.mnemonic(), raised.handler)),
    }
}

/// Maximum number of lines for the gates of an IDT.
const MAX_GATE_LINES: usize = 40;

/// Formats gates. Adjacent gates with the same target share a line.
fn gate_lines(gates: &[(u8, IdtEntry)]) -> Vec<String> {
    let shown = |gate: &IdtEntry| match gate {
        IdtEntry::Gate { gate, .. } => gate.to_string(),
        IdtEntry::Vector { segment, offset, .. } => format!("{segment:04x}:{offset:04x}"),
    };
    let rows = gates.chunk_by(|(first, one), (second, other)| {
        first.checked_add(1) == Some(*second) && shown(one) == shown(other)
    });
    let mut lines: Vec<String> = rows
        .filter_map(|row| match row {
            [] => None,
            [(vector, gate)] => Some(format!("{vector}: {}", shown(gate))),
            [(first, gate), .., (last, _)] => Some(format!("{first} to {last}: {}", shown(gate))),
        })
        .collect();
    if let Some(more @ 1..) = lines.len().checked_sub(MAX_GATE_LINES) {
        lines.truncate(MAX_GATE_LINES);
        lines.push(format!("and {more} more"));
    }
    lines
}

fn exception(link: &ChainLink) -> ExceptionRow {
    let ChainLink { fault, delivery } = link;
    ExceptionRow {
        vector: fault.vector,
        name: fault.name(),
        why: fault.reason.clone(),
        error_code: fault.error_code,
        error_code_words: fault.describe_error_code(),
        address: fault.address,
        walk: fault
            .walk
            .iter()
            .flat_map(|walk| walk.to_string().lines().map(str::to_owned).collect::<Vec<_>>())
            .collect(),
        gate: delivery.gate.as_ref().map(ToString::to_string),
        result: match &delivery.outcome {
            DeliveryOutcome::Handler(handler) => {
                format!("delivered to {:#x}:{:#x}", handler.selector, handler.offset)
            }
            DeliveryOutcome::Failed(failure) => format!("not delivered: {}", failure.reason),
            DeliveryOutcome::TaskSwitch => "a task gate, which is not followed here".to_owned(),
        },
    }
}

impl AutopsyReport {
    /// Returns the first paragraph.
    pub(crate) fn summary(&self) -> &str {
        &self.cause
    }

    /// Returns the registers before the end.
    pub(crate) const fn registers(&self) -> Option<&CpuState> {
        self.registers.as_ref()
    }

    /// Returns symbol and bytes of the instruction that ended the run.
    pub(crate) fn code(&self) -> Option<(Option<String>, Vec<u8>)> {
        self.instruction.as_ref().map(|line| (self.symbol.clone(), line.bytes.clone()))
    }

    fn write_code(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.before.is_empty() {
            writeln!(f, "  the last instructions:")?;
        }
        // An instruction repeated many times in a row, as in a recursion, is shown once.
        for lines in
            self.before.chunk_by(|a, b| a.address == b.address && a.raised.is_none() && b.raised.is_none())
        {
            let times = lines.iter().map(|line| line.times).fold(0, u64::saturating_add);
            if let Some(line) = lines.last() {
                write_line(f, ' ', line, times)?;
            }
        }
        match &self.instruction {
            Some(line) => write_line(f, '>', line, 1),
            None => Ok(()),
        }
    }

    fn write_exceptions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.exceptions.is_empty() {
            writeln!(f, "  exceptions:")?;
        }
        for (exception, number) in self.exceptions.iter().zip(1..) {
            let ExceptionRow { name, why, gate, result, walk, .. } = exception;
            write!(f, "    {number}. {name}")?;
            if let (Some(code), Some(words)) = (exception.error_code, &exception.error_code_words) {
                write!(f, ", error code {code:#x} ({words})")?;
            }
            if let Some(address) = exception.address {
                write!(f, ", cr2 {address:#x}")?;
            }
            writeln!(f, "\n       {why}")?;
            for step in walk {
                writeln!(f, "         {step}")?;
            }
            if let Some(gate) = gate {
                writeln!(f, "       {gate}")?;
            }
            writeln!(f, "       {result}")?;
        }
        Ok(())
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.stack.is_empty() {
            writeln!(f, "  stack:")?;
        }
        for StackWord { address, value, name } in &self.stack {
            let name = name.as_deref().map(|name| format!("  <{name}>")).unwrap_or_default();
            writeln!(f, "    {address:#x}: {value:#x}{name}")?;
        }
        // The tables are only relevant for exceptions.
        let tables = [("GDT", &self.gdt), ("IDT", &self.idt)];
        for (name, table) in tables.into_iter().filter(|_| !self.exceptions.is_empty()) {
            let Some(TableReport { base, limit, entries }) = table else { continue };
            let empty = if entries.is_empty() { ", nothing in it" } else { "" };
            writeln!(f, "  {name} at {base:#x}, limit {limit:#x}{empty}")?;
            entries.iter().try_for_each(|entry| writeln!(f, "    {entry}"))?;
        }
        Ok(())
    }
}

fn write_line(f: &mut fmt::Formatter<'_>, mark: char, line: &InstructionRow, times: u64) -> fmt::Result {
    let InstructionRow { address, name, text, raised, changed, .. } = line;
    let place = name.as_deref().map(|name| format!("<{name}>")).unwrap_or_default();
    let code = format!("  {mark} {address:#x} {place:<32} {text}");
    if changed.is_empty() {
        write!(f, "{code}")?;
    } else {
        write!(f, "{code:<72}")?;
    }
    for (name, value) in changed {
        write!(f, " {name}={value:#x}")?;
    }
    if times > 1 {
        write!(f, "  ({times} times)")?;
    }
    match raised {
        Some(raised) => writeln!(f, "  raised {raised}"),
        None => writeln!(f),
    }
}

impl fmt::Display for AutopsyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in wrap(&self.cause, TEXT_WIDTH) {
            writeln!(f, "  {line}")?;
        }
        self.write_code(f)?;
        if !self.short {
            self.write_exceptions(f)?;
            self.write_memory(f)?;
        }
        for note in &self.notes {
            let lines = wrap(&format!("note: {note}"), TEXT_WIDTH);
            lines.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        }
        writeln!(f, "  {}", self.source)
    }
}
