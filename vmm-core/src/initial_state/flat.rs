//! Segments and tables of protected and long mode: flat segments, GDT, IDT, TSS, and the trap page for ring 3.
//!
//! Every segment register holds a selector of the GDT in memory and its descriptor, as if the guest had loaded it. LDTR is
//! empty. FS and GS are data segments; a 64-bit guest sets their bases by MSR.

use kvm_sys_wrap::bindings::{kvm_dtable, kvm_sregs};

use super::{HostQuirks, StateError, TableImage, image, required};
use crate::cpu::descriptor::SegmentDescriptor;
use crate::cpu::gdt::{Gdt, GdtSlot};
use crate::cpu::idt::{self, Gate};
use crate::cpu::ring3_trap::TrapPage;
use crate::cpu::tss::Tss;
use crate::layout::{Layout, LayoutPart};
use crate::spec::BootSpec;
use crate::spec::gpa_range::GpaRange;
use crate::spec::mode::Ring;

/// Sets the segment registers and table registers, and adds the tables to `images`.
pub(super) fn segments(
    sregs: &mut kvm_sregs,
    images: &mut Vec<TableImage>,
    boot: &BootSpec,
    layout: &Layout,
    quirks: HostQuirks,
) -> Result<(), StateError> {
    let long = boot.mode.is_long();
    let trap_page = layout.trap_page();

    let tss = required(layout, LayoutPart::Tss)?;
    let limit = u32::try_from(tss.size() - 1).unwrap_or(u32::MAX);
    let tss_descriptor = SegmentDescriptor::tss(tss.start().0, limit, quirks.tr_type);
    let gdt = Gdt::new(boot.mode, tss_descriptor).ordered(boot.gdt_layout);
    let (code, data) = GdtSlot::from_ring(boot.ring);
    sregs.cs = gdt.segment(code);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = gdt.segment(data);
    }
    sregs.tr = gdt.segment(GdtSlot::Tss);
    sregs.ldt = SegmentDescriptor::NULL.segment(0);

    let kernel_stack = layout.part(LayoutPart::KernelStack).map_or(0, |range| range.end().0);
    let ring0_segment = if kernel_stack == 0 { 0 } else { GdtSlot::KernelData.selector() };
    let all_ports = boot.ring == Ring::User;
    let state = Tss { long, ring0_stack: kernel_stack, ring0_segment, all_ports };
    images.push(image(tss, LayoutPart::Tss, state.bytes())?);

    let range = required(layout, LayoutPart::Gdt)?;
    sregs.gdt = table_register(range);
    images.push(image(range, LayoutPart::Gdt, gdt.bytes())?);

    let range = required(layout, LayoutPart::Idt)?;
    sregs.idt = table_register(range);
    let gate = |vector| trap_page.map_or(Gate::NOT_PRESENT, |page| page.gate(vector));
    images.push(image(range, LayoutPart::Idt, idt::bytes(long, gate))?);

    if trap_page.is_some() {
        images.push(image(required(layout, LayoutPart::TrapPage)?, LayoutPart::TrapPage, TrapPage::bytes())?);
    }
    Ok(())
}

/// Returns GDTR or IDTR for a table: its first address, and the offset of its last byte as the limit.
fn table_register(range: GpaRange) -> kvm_dtable {
    let limit = u16::try_from(range.size() - 1).unwrap_or(u16::MAX);
    kvm_dtable { base: range.start().0, limit, ..Default::default() }
}
