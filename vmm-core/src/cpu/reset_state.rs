//! Special registers of a vCPU after reset, as `KVM_GET_SREGS` returns them for a new vCPU.
//!
//! A run reads them from KVM. This copy is for uses without KVM: checks, `explain` and tests.
//!
//! Source: SDM vol. 3, table 9-1.

use kvm_sys_wrap::bindings::{kvm_dtable, kvm_segment, kvm_sregs};

use crate::cpu::control_regs::Cr0;

/// Returns the special registers after reset: real mode, first instruction at f000:fff0.
#[must_use]
pub fn sregs() -> kvm_sregs {
    let data = kvm_segment { limit: 0xffff, type_: 3, present: 1, s: 1, ..Default::default() };
    // The base is not the selector times 16: the first instruction is 16 bytes below 4 GiB.
    let code = kvm_segment { base: 0xffff_0000, selector: 0xf000, type_: 11, ..data };
    let system = kvm_segment { limit: 0xffff, present: 1, ..Default::default() };
    let table = kvm_dtable { base: 0, limit: 0xffff, ..Default::default() };
    kvm_sregs {
        cs: code,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment { type_: 11, ..system },
        ldt: kvm_segment { type_: 2, ..system },
        gdt: table,
        idt: table,
        cr0: (Cr0::ET | Cr0::NW | Cr0::CD).bits(),
        // Enabled, and on the bootstrap processor (SDM vol. 3, 10.4.4).
        apic_base: 0xfee0_0900,
        ..Default::default()
    }
}
