//! Compares the registers of a vCPU.
//!
//! General registers, control registers and segments, each field under a name of its own. For registers that consist of
//! bits, the text names the changed bits: `cr0=0x80010033 +PG`.

use std::fmt;

use serde::Serialize;
use vmm_core::cpu::control_regs::{ControlBit, Cr0, Cr4, Efer, Rflags};
use vmm_core::kvm_sys_wrap::bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};
use vmm_core::spec::{Register, RegisterFile};

/// A register that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RegisterChange {
    /// Name, such as `rax`, `cr0` or `cs.base`. The `access` of a segment has type, S, DPL, P, AVL, L, D and G as in
    /// the third and fourth word of its descriptor.
    pub(crate) register: String,
    /// Old value.
    pub(crate) old: u64,
    /// New value.
    pub(crate) new: u64,
}

/// Compares the general registers.
pub(crate) fn diff_regs(old: &kvm_regs, new: &kvm_regs) -> Vec<RegisterChange> {
    let registers = Register::ALL.iter();
    registers.filter_map(|register| change(register.name(), old.get(*register), new.get(*register))).collect()
}

/// Compares the special registers.
pub(crate) fn diff_sregs(old: &kvm_sregs, new: &kvm_sregs) -> Vec<RegisterChange> {
    let mut changes = Vec::new();
    for (name, old, new) in [
        ("cr0", old.cr0, new.cr0),
        ("cr2", old.cr2, new.cr2),
        ("cr3", old.cr3, new.cr3),
        ("cr4", old.cr4, new.cr4),
        ("cr8", old.cr8, new.cr8),
        ("efer", old.efer, new.efer),
        ("apic_base", old.apic_base, new.apic_base),
    ] {
        changes.extend(change(name, old, new));
    }
    for (name, old, new) in [
        ("cs", &old.cs, &new.cs),
        ("ds", &old.ds, &new.ds),
        ("es", &old.es, &new.es),
        ("fs", &old.fs, &new.fs),
        ("gs", &old.gs, &new.gs),
        ("ss", &old.ss, &new.ss),
        ("tr", &old.tr, &new.tr),
        ("ldt", &old.ldt, &new.ldt),
    ] {
        segment(name, old, new, &mut changes);
    }
    for (name, old, new) in [("gdt", &old.gdt, &new.gdt), ("idt", &old.idt, &new.idt)] {
        table(name, old, new, &mut changes);
    }
    changes
}

fn change(register: impl Into<String>, old: u64, new: u64) -> Option<RegisterChange> {
    (old != new).then(|| RegisterChange { register: register.into(), old, new })
}

fn segment(name: &str, old: &kvm_segment, new: &kvm_segment, changes: &mut Vec<RegisterChange>) {
    changes.extend(change(name, old.selector.into(), new.selector.into()));
    changes.extend(change(format!("{name}.base"), old.base, new.base));
    changes.extend(change(format!("{name}.limit"), old.limit.into(), new.limit.into()));
    changes.extend(change(format!("{name}.access"), access(old), access(new)));
}

fn table(name: &str, old: &kvm_dtable, new: &kvm_dtable, changes: &mut Vec<RegisterChange>) {
    changes.extend(change(format!("{name}.base"), old.base, new.base));
    changes.extend(change(format!("{name}.limit"), old.limit.into(), new.limit.into()));
}

/// Returns a segment's access rights as in bits 40 and up of its descriptor (SDM vol. 3, figure 3-8).
fn access(segment: &kvm_segment) -> u64 {
    [
        (segment.type_, 0),
        (segment.s, 4),
        (segment.dpl, 5),
        (segment.present, 7),
        (segment.avl, 12),
        (segment.l, 13),
        (segment.db, 14),
        (segment.g, 15),
    ]
    .into_iter()
    .fold(0, |access, (field, shift)| access | u64::from(field) << shift)
}

impl fmt::Display for RegisterChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { register, old, new } = self;
        write!(f, "{register}={new:#x}")?;
        let names: &[ControlBit] = match register.as_str() {
            "cr0" => Cr0::BITS,
            "cr4" => Cr4::BITS,
            "efer" => Efer::BITS,
            "rflags" => Rflags::BITS,
            _ => return Ok(()),
        };
        for bit in names.iter().filter(|bit| (old ^ new) >> bit.number & 1 != 0) {
            write!(f, " {}{}", if new >> bit.number & 1 == 0 { '-' } else { '+' }, bit.name)?;
        }
        Ok(())
    }
}

/// Formats changes in one line.
pub(crate) fn line(changes: &[RegisterChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_named_and_nothing_else() {
        let old = kvm_regs { rax: 1, rip: 5, rflags: 2, ..Default::default() };
        let new = kvm_regs { rax: 2, rip: 9, rflags: 0x46, ..old };
        assert_eq!(line(&diff_regs(&old, &new)), "rax=0x2, rip=0x9, rflags=0x46 +PF +ZF");
        let old = vmm_core::cpu::reset_state::sregs();
        assert_eq!(diff_sregs(&old, &old), []);
        let mut new = old;
        new.cr0 = 0x8000_0011;
        (new.cs.base, new.cs.l) = (0, 1);
        new.idt.limit = 0;
        assert_eq!(
            line(&diff_sregs(&old, &new)),
            "cr0=0x80000011 +PE -NW -CD +PG, cs.base=0x0, cs.access=0x209b, idt.limit=0x0"
        );
    }
}
