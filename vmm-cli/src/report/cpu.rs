//! State of the vCPU at the end of a run, decoded.

use std::fmt;

use serde::Serialize;
use vm_memory::Bytes;
use vmm_core::cpu::control_regs::{Cr0, Cr4, Efer, Rflags};
use vmm_core::cpu::cpu_state::CpuState;
use vmm_core::kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use vmm_core::kvm_sys_wrap::{Gva, emulation_failure};
use vmm_core::machine::Machine;
use vmm_core::machine::end::End;
use vmm_core::spec::{Register, RegisterFile};

use crate::prepare::Files;

/// Number of code bytes shown.
const CODE_BYTES: u64 = 16;

/// Registers and code of a stopped vCPU.
#[derive(Debug, Serialize)]
pub(crate) struct CpuReport {
    /// Instruction pointer as a linear address: CS.base + RIP.
    rip: u64,
    /// Symbol of that address.
    #[serde(skip_serializing_if = "Option::is_none")]
    symbol: Option<String>,
    /// Code bytes at that address, as far as they can be read.
    code: Vec<u8>,
    /// General registers by name.
    registers: Vec<(&'static str, u64)>,
    /// Control registers: name, value, names of the set bits.
    control: Vec<(&'static str, u64, String)>,
    /// Segments in use.
    segments: Vec<SegmentRow>,
    /// Remarks on the other fields.
    notes: Vec<String>,
    /// True if the autopsy shows the code.
    #[serde(skip)]
    examined: bool,
}

#[derive(Debug, Serialize)]
struct SegmentRow {
    name: &'static str,
    selector: u16,
    base: u64,
    limit: u32,
    bits: u8,
}

impl CpuReport {
    /// Reads the state; `None` if the host refuses.
    pub(crate) fn from_machine(machine: &Machine, end: &End, files: &Files) -> Option<Self> {
        let vcpu = machine.vcpu();
        let (regs, sregs) = (vcpu.regs().ok()?, vcpu.sregs().ok()?);
        // The frame has the address of the code that raised the exception.
        let linear = if let End::Exception { frame: Some(frame), .. } = end {
            frame.rip
        } else {
            sregs.cs.base.wrapping_add(regs.rip)
        };
        let refused =
            if let End::InternalError { suberror: 1, data } = end { emulation_failure(data) } else { None };
        Some(Self {
            rip: linear,
            symbol: files.symbol_at(linear),
            code: refused.unwrap_or_else(|| code_at(machine, &sregs, linear)),
            registers: Register::ALL.iter().map(|register| (register.name(), regs.get(*register))).collect(),
            control: control(&regs, &sregs),
            segments: segments(&sregs),
            notes: notes(machine, end, &regs, &sregs),
            examined: false,
        })
    }
}

impl CpuReport {
    /// Replaces the registers by those that the autopsy found. The autopsy shows the code.
    pub(crate) fn replace(&mut self, state: &CpuState, code: Option<(Option<String>, Vec<u8>)>) {
        let CpuState { regs, sregs } = state;
        self.rip = state.linear_rip();
        (self.symbol, self.code) = code.unwrap_or_default();
        self.registers =
            Register::ALL.iter().map(|register| (register.name(), regs.get(*register))).collect();
        self.control = control(regs, sregs);
        self.segments = segments(sregs);
        self.notes = Vec::new();
        self.examined = true;
    }
}

/// Returns the bytes at a linear address, up to the end of its page.
fn code_at(machine: &Machine, sregs: &kvm_sregs, linear: u64) -> Vec<u8> {
    let length = CODE_BYTES.min(4096 - linear % 4096);
    // Not KVM_TRANSLATE: the VM of a machine that was examined has been released.
    let walk = machine.walker_from_sregs(sregs).walk(machine.memory(), Gva(linear));
    let Some(to) = walk.translation() else { return Vec::new() };
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let read = machine.memory().read(&mut bytes, to.gpa.into()).unwrap_or(0);
    bytes.truncate(read);
    bytes
}

fn control(regs: &kvm_regs, sregs: &kvm_sregs) -> Vec<(&'static str, u64, String)> {
    vec![
        ("rflags", regs.rflags, Rflags::from_bits_retain(regs.rflags).to_string()),
        ("cr0", sregs.cr0, Cr0::from_bits_retain(sregs.cr0).to_string()),
        ("cr2", sregs.cr2, "address of the last page fault".to_owned()),
        ("cr3", sregs.cr3, "address of the first page table".to_owned()),
        ("cr4", sregs.cr4, Cr4::from_bits_retain(sregs.cr4).to_string()),
        ("efer", sregs.efer, Efer::from_bits_retain(sregs.efer).to_string()),
    ]
}

fn segments(sregs: &kvm_sregs) -> Vec<SegmentRow> {
    [("cs", &sregs.cs), ("ds", &sregs.ds), ("ss", &sregs.ss)]
        .into_iter()
        .map(|(name, segment)| SegmentRow {
            name,
            selector: segment.selector,
            base: segment.base,
            limit: segment.limit,
            bits: match (segment.l, segment.db) {
                (0, 0) => 16,
                (0, _) => 32,
                (_, _) => 64,
            },
        })
        .collect()
}

fn notes(machine: &Machine, end: &End, regs: &kvm_regs, sregs: &kvm_sregs) -> Vec<String> {
    let mut notes = Vec::new();
    // Reset state in a machine that started in another mode (AMD hosts; see KVM's shutdown_interception).
    let reset = regs.rip == 0xfff0 && !Cr0::from_bits_retain(sregs.cr0).contains(Cr0::PE);
    if *end == End::Shutdown && reset && machine.spec().boot.mode.is_protected() {
        notes.push(
            "this host resets the vCPU when it shuts down: the registers are those after reset, not the guest's"
                .to_owned(),
        );
    }
    if let End::InternalError { suberror: 1, .. } = end {
        notes.push(
            "the bytes are those of the instruction; build the guest without SSE and x87 (-mgeneral-regs-only), \
             or use another host: some interpret guest code and do not know every instruction"
                .to_owned(),
        );
    }
    notes
}

impl fmt::Display for CpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let symbol = self.symbol.as_deref().map(|name| format!(" <{name}>")).unwrap_or_default();
        let code: Vec<String> = self.code.iter().map(|byte| format!("{byte:02x}")).collect();
        let code = if code.is_empty() { "(nothing there)".to_owned() } else { code.join(" ") };
        if self.examined {
            writeln!(f, "  registers:")?;
        } else {
            writeln!(f, "  at {:#x}{symbol}: {code}", self.rip)?;
        }
        for row in self.registers.chunks(4) {
            let cells: Vec<String> =
                row.iter().map(|(name, value)| format!("{name:>6} {value:016x}")).collect();
            writeln!(f, " {}", cells.join(" "))?;
        }
        for (name, value, meaning) in &self.control {
            writeln!(f, " {name:>6} {value:016x}  {meaning}")?;
        }
        for SegmentRow { name, selector, base, limit, bits } in &self.segments {
            writeln!(
                f,
                " {name:>6} {selector:#06x}  base {base:#x}, limit {limit:#x}, {bits}-bit, ring {}",
                selector & 3
            )?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))
    }
}
