//! Page tables, segments and descriptor tables of the initial state.
//!
//! All of it is decoded from the bytes of the initial state, as a CPU would do. Nothing is taken from the builders' input.

use serde::Serialize;
use vmm_core::Gva;
use vmm_core::cpu::descriptor::{SegmentDescriptor, named_segments};
use vmm_core::cpu::gdt;
use vmm_core::cpu::idt;
use vmm_core::cpu::tss::Tss;
use vmm_core::explain::control_bits;
use vmm_core::initial_state::InitialState;
use vmm_core::kvm_sys_wrap::bindings::kvm_sregs;
use vmm_core::layout::{Layout, LayoutPart};
use vmm_core::paging::merge::{MappedRange, mappings};
use vmm_core::paging::walk::{Walker, describe_permissions};
use vmm_core::spec::gpa_range::GpaRange;
use vmm_core::spec::{EntryPoint, MachineSpec};

use super::{hex, image_bytes};

/// Page tables.
#[derive(Debug, Serialize)]
pub(super) struct PagingSummary {
    /// Name of the paging scheme.
    pub(super) scheme: &'static str,
    /// Levels from the root down, each with its index bits.
    pub(super) levels: Vec<String>,
    /// Width of a virtual address.
    pub(super) address_bits: u32,
    /// Address of the root table.
    pub(super) root: String,
    /// Size of all tables in bytes.
    pub(super) size: u64,
    /// All mappings, merged.
    pub(super) ranges: Vec<PagingRange>,
    /// Page walk of the entry: one line for each table, then the result.
    pub(super) entry_walk: Vec<String>,
}

/// Contiguous pages.
#[derive(Debug, Serialize)]
pub(super) struct PagingRange {
    pub(super) start: String,
    /// Last virtual address. The exclusive end may not be representable.
    pub(super) last: String,
    pub(super) physical: String,
    pub(super) size: u64,
    pub(super) pages: u64,
    pub(super) page_size: &'static str,
    pub(super) access: String,
    /// Ranges of the layout that are mapped here.
    pub(super) shows: Vec<String>,
}

/// Segment or table register.
#[derive(Debug, Serialize)]
pub(super) struct SegmentSummary {
    pub(super) register: &'static str,
    /// Selector; `None` for GDTR and IDTR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) selector: Option<String>,
    pub(super) holds: String,
    pub(super) why: &'static str,
}

/// Descriptor in memory.
#[derive(Debug, Serialize)]
pub(super) struct GdtEntryRow {
    pub(super) selector: String,
    pub(super) descriptor: String,
}

impl PagingSummary {
    pub(super) fn of(spec: &MachineSpec, layout: &Layout, state: &InitialState) -> Option<Self> {
        let walker = Walker::from_sregs(&state.sregs);
        let scheme = walker.scheme?;
        let memory = state.images.as_slice();
        let level = |level: &vmm_core::paging::Level| format!("{} ({} bits)", level.name, level.index_bits);
        let EntryPoint::Address(entry) = spec.boot.entry else { return None };
        let walk = walker.walk(memory, entry);
        let steps = walk.steps.iter().map(ToString::to_string);
        Some(Self {
            scheme: scheme.name(),
            levels: scheme.levels().iter().map(level).collect(),
            address_bits: scheme.address_bits(),
            root: hex(walker.root.0),
            size: layout.part(LayoutPart::PageTables).map_or(0, GpaRange::size),
            ranges: mappings(&walker, memory).ranges.iter().map(|mapped| range(mapped, layout)).collect(),
            entry_walk: steps.chain([walk.end.to_string()]).collect(),
        })
    }
}

fn range(mapped: &MappedRange, layout: &Layout) -> PagingRange {
    let MappedRange { gva: Gva(start), gpa, size, count, access } = *mapped;
    let shown = mapped.physical();
    let here =
        layout.ranges().iter().filter(|placed| shown.is_some_and(|shown| shown.overlaps(placed.range)));
    PagingRange {
        start: hex(start),
        last: hex(start.saturating_add(mapped.bytes() - 1)),
        physical: hex(gpa.0),
        size: mapped.bytes(),
        pages: count,
        page_size: size.name(),
        access: describe_permissions(access),
        shows: here.map(|placed| placed.owner.to_string()).collect(),
    }
}

/// Returns the segment registers and the table registers.
pub(super) fn segments(spec: &MachineSpec, state: &InitialState) -> Vec<SegmentSummary> {
    let sregs = &state.sregs;
    let segments = named_segments(sregs).into_iter().map(|(register, segment)| SegmentSummary {
        register,
        selector: Some(format!("{:#06x}", segment.selector)),
        holds: SegmentDescriptor::from_segment(segment).to_string(),
        why: control_bits::segment(spec, register),
    });
    let tables =
        [("GDTR", &sregs.gdt), ("IDTR", &sregs.idt)].into_iter().map(|(register, table)| SegmentSummary {
            register,
            selector: None,
            holds: format!("base {:#x}, limit {:#x}", table.base, table.limit),
            why: control_bits::segment(spec, register),
        });
    segments.chain(tables).collect()
}

/// Returns the descriptors in memory; none in real mode.
pub(super) fn gdt(state: &InitialState) -> Vec<GdtEntryRow> {
    let sregs = &state.sregs;
    let Some(bytes) = image_bytes(state, sregs.gdt.base, sregs.gdt.limit.into()) else { return Vec::new() };
    let entry = |(selector, descriptor): (u16, SegmentDescriptor)| GdtEntryRow {
        selector: format!("{selector:#04x}"),
        descriptor: if selector == 0 {
            "null: selector 0 means no segment".to_owned()
        } else {
            descriptor.to_string()
        },
    };
    gdt::decode(&bytes, is_long(sregs)).into_iter().map(entry).collect()
}

/// Describes the gates in memory; `None` in real mode.
pub(super) fn idt(state: &InitialState) -> Option<String> {
    let sregs = &state.sregs;
    let bytes = image_bytes(state, sregs.idt.base, sregs.idt.limit.into())?;
    let gates = idt::decode(&bytes, is_long(sregs));
    let mut present = gates.iter().enumerate().filter(|(_, gate)| gate.present);
    let Some((vector, first)) = present.next() else {
        return Some(format!("{} gates, none present: for the guest to fill in", gates.len()));
    };
    let count = present.count().saturating_add(1);
    Some(format!("{count} of {} gates present; vector {vector:#x}: {first}", gates.len()))
}

/// Describes the TSS in memory; `None` in real mode.
pub(super) fn tss(state: &InitialState) -> Option<String> {
    let sregs = &state.sregs;
    let bytes = image_bytes(state, sregs.tr.base, sregs.tr.limit)?;
    let tss = Tss::decode(&bytes, is_long(sregs))?;
    let ports = if tss.all_ports { "ring 3 may use all ports" } else { "ring 3 may use no port" };
    let stack = match (tss.ring0_stack, tss.ring0_segment) {
        (0, _) => "no ring-0 stack".to_owned(),
        (stack, 0) => format!("ring-0 stack below {stack:#x}"),
        (stack, segment) => format!("ring-0 stack below {segment:#x}:{stack:#x}"),
    };
    Some(format!("{stack}; {ports}"))
}

/// Returns true if system descriptors have 16 bytes.
fn is_long(sregs: &kvm_sregs) -> bool {
    use vmm_core::cpu::control_regs::Efer;
    Efer::from_bits_retain(sregs.efer).contains(Efer::LMA)
}
