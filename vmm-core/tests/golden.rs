//! Golden tests: the initial state of every mode, page size and ring, as text.
//!
//! The text is decoded from the bits in `kvm_sregs` and from the bytes of the images, as a CPU reads them, and not from the input
//! of the builders. `UPDATE_GOLDEN=1` writes the files in `tests/golden`; read the difference before a commit.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/golden.rs"]
mod golden;

use std::fmt::Write as _;

use kvm_sys_wrap::bindings::kvm_sregs;
use vmm_core::cpu::control_regs::{Cr0, Cr4, Efer, Rflags};
use vmm_core::cpu::descriptor::{SegmentDescriptor, named_segments};
use vmm_core::cpu::gdt;
use vmm_core::cpu::idt;
use vmm_core::cpu::reset_state;
use vmm_core::cpu::tss::Tss;
use vmm_core::initial_state::{HostQuirks, InitialState, initial_state};
use vmm_core::layout::{self, Layout, LayoutEntry};
use vmm_core::paging::merge::mappings;
use vmm_core::paging::walk::{ReadMemory, Walker};
use vmm_core::spec::gpa_range::GpaRange;
use vmm_core::spec::mode::{Mode, PageSize, Ring};
use vmm_core::spec::{EntryPoint, MachineSpec, Mapping, MemoryRegion, PagePermissions};
use vmm_core::{Gpa, Gva};

use golden::Goldens;

/// Address of the guest, which has 8 KiB.
const GUEST: Gpa = Gpa(0x20_0000);
const REAL_GUEST: Gpa = Gpa(0x7c00);

fn machine(mode: Mode, ring: Ring, page_size: Option<PageSize>) -> MachineSpec {
    let memory = if page_size == Some(PageSize::Size1G) { (1 << 30) + (8 << 20) } else { 8 << 20 };
    let at = if mode.is_protected() { GUEST } else { REAL_GUEST };
    let mut spec = MachineSpec::new(mode, memory, EntryPoint::Address(Gva(at.0)));
    spec.boot.ring = ring;
    spec.boot.paging.page_size = page_size;
    spec
}

/// Returns all cases: each mode, page size and ring, and other settings that change the state.
fn cases() -> Vec<(String, MachineSpec)> {
    let mut cases = Vec::new();
    for mode in Mode::ALL {
        let sizes: Vec<Option<PageSize>> = match mode.page_sizes() {
            [] => vec![None],
            sizes => sizes.iter().copied().map(Some).collect(),
        };
        for ring in [Ring::Kernel, Ring::User] {
            if !mode.is_protected() && ring == Ring::User {
                continue;
            }
            for size in &sizes {
                let pages = size.map_or(String::new(), |size| format!("-{}", size.name().to_lowercase()));
                cases.push((format!("{mode}{pages}-ring{}", ring.level()), machine(mode, ring, *size)));
            }
        }
    }
    for ring in [Ring::Kernel, Ring::User] {
        let mut five = machine(Mode::Long, ring, None);
        five.boot.paging.five_level = true;
        cases.push((format!("long-five-level-ring{}", ring.level()), five));

        let mut higher_half = machine(Mode::Long, ring, None);
        higher_half.boot.entry = EntryPoint::Address(Gva(0xffff_ffff_8020_0000));
        let access = PagePermissions { writable: true, user: ring == Ring::User, executable: true };
        let (text, data) = (access, PagePermissions { executable: false, ..access });
        higher_half.boot.paging.identity = false;
        higher_half.boot.paging.maps = vec![
            Mapping { gva: Gva(0xffff_ffff_8000_0000), gpa: Gpa(0), size: 4 << 20, access: text },
            Mapping { gva: Gva(0xffff_ffff_8040_0000), gpa: Gpa(0x40_0000), size: 0x3000, access: data },
        ];
        cases.push((format!("long-higher-half-ring{}", ring.level()), higher_half));
    }
    let mut high = machine(Mode::Real, Ring::Kernel, None);
    high.boot.entry = EntryPoint::Segmented { segment: 0x7c0, offset: 0 };
    high.pinned.stack_top = Some(Gpa(0x9_0000));
    cases.push(("real-segmented-high-stack".to_owned(), high));

    let mut sse = machine(Mode::Protected, Ring::Kernel, None);
    sse.boot.sse = Some(true);
    sse.memory.push(MemoryRegion { read_only: true, ..MemoryRegion::new(Gpa(0xf000_0000), 0x2000) });
    cases.push(("protected-sse-two-regions".to_owned(), sse));
    cases
}

#[test]
fn initial_states_match_their_golden_files() {
    let states = cases().into_iter().map(|(name, spec)| (format!("{name}.txt"), describe(&spec)));
    let goldens = states.fold(Goldens::new("golden"), |goldens, (name, text)| goldens.with(name, text));
    goldens.check(&["txt"]);
}

/// Returns the initial state of a machine as text.
fn describe(spec: &MachineSpec) -> String {
    let start = if spec.boot.mode.is_protected() { GUEST } else { REAL_GUEST };
    let guest = LayoutEntry::guest("guest", GpaRange::new(start, 0x2000).unwrap());
    let layout = layout::compute(spec, &[guest]).unwrap();
    let state = initial_state(&reset_state::sregs(), spec, &layout, HostQuirks::default()).unwrap();
    let memory = state.images.as_slice();
    let mut text = String::new();
    registers(&mut text, &state);
    segments(&mut text, &state.sregs);
    if Cr0::from_bits_retain(state.sregs.cr0).contains(Cr0::PE) {
        tables(&mut text, &state.sregs, memory);
    }
    pages(&mut text, &state.sregs, memory);
    memory_map(&mut text, &layout);
    text
}

fn registers(text: &mut String, state: &InitialState) {
    let (sregs, regs) = (&state.sregs, &state.regs);
    writeln!(text, "registers").unwrap();
    writeln!(text, "  CR0     {:#012x}  {}", sregs.cr0, Cr0::from_bits_retain(sregs.cr0)).unwrap();
    writeln!(text, "  CR3     {:#012x}", sregs.cr3).unwrap();
    writeln!(text, "  CR4     {:#012x}  {}", sregs.cr4, Cr4::from_bits_retain(sregs.cr4)).unwrap();
    writeln!(text, "  EFER    {:#012x}  {}", sregs.efer, Efer::from_bits_retain(sregs.efer)).unwrap();
    writeln!(text, "  RFLAGS  {:#012x}  {}", regs.rflags, Rflags::from_bits_retain(regs.rflags)).unwrap();
    writeln!(text, "  RIP     {:#012x}", regs.rip).unwrap();
    writeln!(text, "  RSP     {:#012x}", regs.rsp).unwrap();
    let needs: Vec<&str> = state.needs.iter().map(|feature| feature.name()).collect();
    writeln!(text, "  needs   {}", if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") })
        .unwrap();
}

fn segments(text: &mut String, sregs: &kvm_sregs) {
    writeln!(text, "\nsegments").unwrap();
    for (name, segment) in named_segments(sregs) {
        let descriptor = SegmentDescriptor::from_segment(segment);
        writeln!(text, "  {name:<5} {:#06x}  {descriptor}", segment.selector).unwrap();
    }
    for (name, table) in [("GDTR", &sregs.gdt), ("IDTR", &sregs.idt)] {
        writeln!(text, "  {name:<5} base {:#x}, limit {:#x}", table.base, table.limit).unwrap();
    }
}

/// Returns the bytes from a base up to a limit.
fn bytes(memory: &(impl ReadMemory + ?Sized), base: u64, limit: u32) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(limit).unwrap() + 1];
    memory.read(Gpa(base), &mut bytes).unwrap();
    bytes
}

fn tables(text: &mut String, sregs: &kvm_sregs, memory: &(impl ReadMemory + ?Sized)) {
    let long = Efer::from_bits_retain(sregs.efer).contains(Efer::LMA);
    writeln!(text, "\nGDT in memory").unwrap();
    for (selector, descriptor) in gdt::decode(&bytes(memory, sregs.gdt.base, sregs.gdt.limit.into()), long) {
        writeln!(text, "  {selector:#04x}  {descriptor}").unwrap();
    }

    let gates = idt::decode(&bytes(memory, sregs.idt.base, sregs.idt.limit.into()), long);
    let present = gates.iter().filter(|gate| gate.present).count();
    writeln!(text, "\nIDT in memory: {present} of {} gates present", gates.len()).unwrap();
    for (vector, gate) in gates.iter().enumerate().filter(|(vector, _)| [0, 14, 0x80, 255].contains(vector)) {
        writeln!(text, "  {vector:#04x}  {gate}").unwrap();
    }
    if let Some(gate) = gates.iter().find(|gate| gate.present) {
        let code = bytes(memory, gate.offset, 2);
        writeln!(text, "  the first leads to {code:02x?}").unwrap();
    }

    let tss = Tss::decode(&bytes(memory, sregs.tr.base, sregs.tr.limit), long).unwrap();
    let ports = if tss.all_ports { "all" } else { "no" };
    writeln!(text, "\nTSS in memory").unwrap();
    writeln!(text, "  ring-0 stack {:#x}:{:#x}", tss.ring0_segment, tss.ring0_stack).unwrap();
    writeln!(text, "  {ports} ports for ring 3").unwrap();
}

fn pages(text: &mut String, sregs: &kvm_sregs, memory: &(impl ReadMemory + ?Sized)) {
    let walker = Walker::from_sregs(sregs);
    let Some(scheme) = walker.scheme else { return };
    writeln!(text, "\n{}", scheme.name()).unwrap();
    for line in mappings(&walker, memory).to_string().lines() {
        writeln!(text, "  {line}").unwrap();
    }
}

fn memory_map(text: &mut String, layout: &Layout) {
    writeln!(text, "\nlayout").unwrap();
    for line in layout.to_string().lines() {
        writeln!(text, "  {line}").unwrap();
    }
}
