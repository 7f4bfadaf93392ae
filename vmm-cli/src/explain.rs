//! Explains a machine without KVM: every call of a run, and the state that it sets up.
//!
//! [`Explanation`] has all of it as plain data. Each output format is made from that alone.
//!
//! | file | step |
//! |---|---|
//! | `steps.rs` | sequence of KVM calls |
//! | `loading.rs` | segments that are mapped or copied |
//! | `memory.rs` | memory slots, memory layout, ports |
//! | `tables.rs` | page tables, segments, descriptor tables |
//! | `registers.rs` | control registers bit by bit, general registers |
//! | `sandbox.rs` | system calls that are allowed once the guest runs |
//! | `text.rs`, `ascii_map.rs` | text form, with the memory map drawn |
//! | `svg.rs` | SVG picture |
//! | `diff.rs` | differences between two machines |
//!
//! The JSON form has the keys of these types; more may come, none go: `config`, `machine`, `boot` (absent for a guest
//! that only names its mode), `files`, `flow`, `memory` (`slots`, `map`, `ports`), `paging` (null without), `segments`,
//! `gdt`, `idt`, `tss` (null in real mode), `control_registers`, `registers`, `sandbox`. Addresses and register values are strings
//! like `"0x1000"`, since many JSON parsers lose the lower bits of large numbers. Sizes and counts are numbers. Ranges
//! end before `end`.

mod ascii_map;
pub(crate) mod diff;
mod loading;
mod memory;
mod registers;
mod sandbox;
mod steps;
pub(crate) mod svg;
mod tables;
pub(crate) mod text;

use serde::Serialize;
use vmm_core::cpu::reset_state;
use vmm_core::explain::call_sequence;
use vmm_core::initial_state::{HostQuirks, InitialState, StateError, initial_state};
use vmm_core::machine::image::GuestImage;
use vmm_core::spec::mode::Ring;
use vmm_core::spec::{CpuidPolicy, EntryPoint, HaltPolicy, MachineSpec, UnmappedPolicy};

use crate::config::Config;
use crate::prepare::{Boot, Files, Prepared};

/// Description of a machine before it runs.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    /// Path of the configuration, as it was given.
    pub(crate) config: String,
    /// Summary of the machine.
    machine: MachineSummary,
    /// Boot protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<BootSummary>,
    /// The guest's file, then the others.
    files: Vec<FileSummary>,
    /// Every call, in order.
    flow: Vec<steps::CallRow>,
    /// Memory slots, memory layout, ports.
    memory: memory::Memory,
    /// Page tables.
    paging: Option<tables::PagingSummary>,
    /// CS to GS, TR, LDTR, GDTR, IDTR.
    segments: Vec<tables::SegmentSummary>,
    /// Descriptors in memory.
    gdt: Vec<tables::GdtEntryRow>,
    /// Description of the gates in memory.
    idt: Option<String>,
    /// Description of the TSS.
    tss: Option<String>,
    /// CR0, CR4, EFER, RFLAGS.
    control_registers: Vec<registers::ControlRegisterRow>,
    /// Other registers that differ from their reset values.
    registers: Vec<registers::GeneralRegisterRow>,
    /// Confinement of the process that runs the guest.
    sandbox: sandbox::SandboxSummary,
}

/// Summary of a machine.
#[derive(Debug, Serialize)]
struct MachineSummary {
    mode: &'static str,
    bits: u32,
    ring: u8,
    /// Size of all regions in bytes.
    memory: u64,
    entry: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    entry_symbol: Option<String>,
    cpuid: String,
    unmapped: &'static str,
    halt: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_limit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_limit: Option<u64>,
    arguments: Vec<String>,
}

/// Boot protocol of a guest.
#[derive(Debug, Serialize)]
struct BootSummary {
    protocol: &'static str,
    /// Reason why this protocol was chosen.
    chosen: &'static str,
    /// Protocols that the file supports, the best first.
    offers: Vec<String>,
    /// Boot information for the kernel.
    told: Vec<String>,
}

/// File that is loaded into memory.
#[derive(Debug, Serialize)]
struct FileSummary {
    name: String,
    /// Load plan: kind, segments, symbols.
    plan: String,
    /// Load method of each segment.
    loading: Vec<loading::SegmentLoading>,
}

impl Explanation {
    /// Explains a configuration whose files have been read.
    ///
    /// The state is computed from the reset state in the manuals for a host without quirks. It does not depend on this host.
    ///
    /// # Errors
    /// The entry or a preset register is invalid, as in `run`.
    pub(crate) fn new(name: String, config: &Config, prepared: &Prepared) -> Result<Self, StateError> {
        let Prepared { machine: spec, layout, files, .. } = prepared;
        let state = initial_state(&reset_state::sregs(), spec, layout, HostQuirks::default())?;
        let checks_registers = config.expect.as_ref().is_some_and(|expect| !expect.registers.is_empty());
        let flow = call_sequence::flow(spec, layout, &files.mapped(), &state);
        Ok(Self {
            config: name,
            machine: MachineSummary::of(spec, files),
            boot: BootSummary::of(&prepared.boot),
            files: files
                .plans()
                .zip(files.load_methods())
                .map(|((name, plan), ways)| FileSummary {
                    name: name.to_owned(),
                    plan: plan.to_string(),
                    loading: loading::of(ways),
                })
                .collect(),
            flow: steps::rows(&flow, checks_registers),
            memory: memory::Memory::of(spec, layout),
            paging: tables::PagingSummary::of(spec, layout, &state),
            segments: tables::segments(spec, &state),
            gdt: tables::gdt(&state),
            idt: tables::idt(&state),
            tss: tables::tss(&state),
            control_registers: registers::control(spec, layout, &state),
            registers: registers::general(spec, layout, &state, &prepared.boot),
            sandbox: sandbox::SandboxSummary::of(spec),
        })
    }

    /// Renders the explanation as indented JSON.
    pub(crate) fn to_json(&self) -> String {
        // Nothing in it can fail to serialize: keys are strings, values plain.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Returns the machine in one line.
    fn summary(&self) -> String {
        let MachineSummary { mode, ring, memory, .. } = &self.machine;
        let memory = memory::size_words(*memory);
        format!("{mode} mode, ring {ring}, {memory} of memory, entry {}", self.machine.entry_words())
    }
}

impl BootSummary {
    /// Returns `None` for a guest whose mode is given and whose file was not asked for a protocol.
    fn of(boot: &Boot) -> Option<Self> {
        let Boot { protocol, reason, candidates, boot_info, .. } = boot;
        let (offers, told) = (candidates.clone(), boot_info.clone());
        (!offers.is_empty() || !told.is_empty()).then(|| Self {
            protocol: protocol.name(),
            chosen: reason,
            offers,
            told,
        })
    }
}

impl MachineSummary {
    fn of(spec: &MachineSpec, files: &Files) -> Self {
        let linear = match spec.boot.entry {
            EntryPoint::Address(gva) => gva.0,
            EntryPoint::Segmented { segment, offset } => u64::from(segment) * 16 + u64::from(offset),
        };
        Self {
            mode: spec.boot.mode.name(),
            bits: spec.boot.mode.bits(),
            ring: spec.boot.ring.level(),
            memory: spec.memory.iter().map(|region| region.size).fold(0, u64::saturating_add),
            entry: spec.boot.entry.to_string(),
            entry_symbol: files.symbol_at(linear),
            cpuid: cpuid(spec),
            unmapped: match spec.unmapped {
                UnmappedPolicy::ReadOnes => "ones",
                UnmappedPolicy::Stop => "stop",
            },
            halt: match spec.halt {
                HaltPolicy::Success => "success",
                HaltPolicy::Hung => "hung",
            },
            time_limit: spec.limits.time.map(|time| format!("{time:?}")),
            exit_limit: spec.limits.exits,
            arguments: spec.arguments.clone(),
        }
    }

    fn entry_words(&self) -> String {
        let symbol = self.entry_symbol.as_ref().map(|name| format!(" <{name}>")).unwrap_or_default();
        format!("{}{symbol}", self.entry)
    }
}

/// Formats an address or the value of a register.
fn hex(number: impl Into<u64>) -> String {
    format!("{:#x}", number.into())
}

/// Returns true if the machine starts in ring 3.
const fn is_user(spec: &MachineSpec) -> bool {
    matches!(spec.boot.ring, Ring::User)
}

/// Returns the bytes that a base and a limit describe, from the initial memory images.
fn image_bytes(state: &InitialState, base: u64, limit: u32) -> Option<Vec<u8>> {
    use vmm_core::paging::walk::ReadMemory;
    let mut bytes = vec![0; usize::try_from(limit).ok()?.checked_add(1)?];
    state.images.as_slice().read(vmm_core::Gpa(base), &mut bytes)?;
    Some(bytes)
}

/// Describes the CPUID policy.
fn cpuid(spec: &MachineSpec) -> String {
    let mut text = match spec.cpuid {
        CpuidPolicy::None => return "none".to_owned(),
        CpuidPolicy::Host => "host".to_owned(),
    };
    for (present, word) in [(false, "without"), (true, "with")] {
        let names: Vec<_> = spec.cpuid_changes.iter().filter(|change| change.1 == present).collect();
        let names: Vec<_> = names.iter().map(|(feature, _)| feature.name()).collect();
        if !names.is_empty() {
            text = format!("{text}, {word} {}", names.join(" "));
        }
    }
    text
}
