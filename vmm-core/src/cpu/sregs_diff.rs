//! Comparison of special registers that were set with those that the host reports back.
//!
//! `KVM_SET_SREGS` can return 0 and silently drop a bit: kvm-pvm clears CR0.PG where it has no 32-bit paging. So the
//! registers are read back before the run, and every relevant difference is reported.
//!
//! Ignored, because a CPU or KVM sets it by itself:
//! - the accessed bit in a segment's type;
//! - busy instead of available in the task register (kvm-amd always reads busy);
//! - G, which kvm-amd derives from the limit: limits are compared in bytes;
//! - everything else in a segment that is not present or marked unusable;
//! - CR0.ET, which is fixed to 1;
//! - CR2, CR8, the APIC base and pending interrupts, which are not part of a mode.

use std::fmt;

use kvm_sys_wrap::bindings::{kvm_dtable, kvm_segment, kvm_sregs};

use crate::cpu::control_regs::{ControlBit, Cr0, Cr4, Efer};
use crate::cpu::descriptor::{SegmentDescriptor, named_segments};

/// Difference between the special registers that were set and those of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SregsDifference {
    /// Bit of a control register that the host set or cleared.
    ControlBit {
        /// Name of the control register.
        register: &'static str,
        /// Name of the bit, or `bit 30` if it has none.
        bit: String,
        /// Value of the bit that was requested; the host has the opposite.
        wanted: bool,
    },
    /// Number that the host changed: CR3, the base or limit of a table register or of a segment, or a selector.
    Number {
        /// Name of the number, such as `CR3` or `CS.base`.
        name: String,
        /// Value that was requested.
        wanted: u64,
        /// Value that the host has.
        found: u64,
    },
    /// Segment whose type, ring, width or presence the host changed.
    Segment {
        /// Name of the segment register.
        register: &'static str,
        /// Descriptor that was requested.
        wanted: SegmentDescriptor,
        /// Descriptor that the host has.
        found: SegmentDescriptor,
    },
}

/// Formats the change that the host made, such as `cleared CR0.PG`.
impl fmt::Display for SregsDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ControlBit { register, bit, wanted } => {
                let verb = if *wanted { "cleared" } else { "set" };
                write!(f, "{verb} {register}.{bit}")
            }
            Self::Number { name, wanted, found } => {
                write!(f, "changed {name} from {wanted:#x} to {found:#x}")
            }
            Self::Segment { register, wanted, found } => {
                write!(f, "changed {register} from ({wanted}) to ({found})")
            }
        }
    }
}

/// Compares special registers that were requested with those that the host has. Empty if the host accepted all.
#[must_use]
pub fn compare(wanted: &kvm_sregs, found: &kvm_sregs) -> Vec<SregsDifference> {
    let mut differences = Vec::new();
    let fixed = Cr0::ET.bits();
    control_bits(Cr0::NAME, Cr0::BITS, wanted.cr0 | fixed, found.cr0 | fixed, &mut differences);
    control_bits(Cr4::NAME, Cr4::BITS, wanted.cr4, found.cr4, &mut differences);
    control_bits(Efer::NAME, Efer::BITS, wanted.efer, found.efer, &mut differences);
    number("CR3", wanted.cr3, found.cr3, &mut differences);
    table("GDT", &wanted.gdt, &found.gdt, &mut differences);
    table("IDT", &wanted.idt, &found.idt, &mut differences);
    for ((register, wanted), (_, found)) in named_segments(wanted).into_iter().zip(named_segments(found)) {
        segment(register, wanted, found, &mut differences);
    }
    differences
}

fn control_bits(
    register: &'static str,
    bits: &[ControlBit],
    wanted: u64,
    found: u64,
    differences: &mut Vec<SregsDifference>,
) {
    for number in (0..64).filter(|number| (wanted ^ found) >> number & 1 != 0) {
        let named = bits.iter().find(|bit| bit.number == number);
        let bit = named.map_or_else(|| format!("bit {number}"), |bit| bit.name.to_owned());
        differences.push(SregsDifference::ControlBit { register, bit, wanted: wanted >> number & 1 != 0 });
    }
}

fn number(name: &str, wanted: u64, found: u64, differences: &mut Vec<SregsDifference>) {
    if wanted != found {
        differences.push(SregsDifference::Number { name: name.to_owned(), wanted, found });
    }
}

fn table(name: &str, wanted: &kvm_dtable, found: &kvm_dtable, differences: &mut Vec<SregsDifference>) {
    number(&format!("{name}.base"), wanted.base, found.base, differences);
    number(&format!("{name}.limit"), wanted.limit.into(), found.limit.into(), differences);
}

fn segment(
    register: &'static str,
    wanted: &kvm_segment,
    found: &kvm_segment,
    differences: &mut Vec<SregsDifference>,
) {
    let selectors = (wanted.selector, found.selector);
    let (wanted, found) = (SegmentDescriptor::from_segment(wanted), SegmentDescriptor::from_segment(found));
    if !wanted.present && !found.present {
        return;
    }
    if relevant(&wanted) != relevant(&found) {
        differences.push(SregsDifference::Segment { register, wanted, found });
        return;
    }
    number(&format!("{register}.selector"), selectors.0.into(), selectors.1.into(), differences);
    number(&format!("{register}.base"), wanted.base, found.base, differences);
    number(&format!("{register}.limit"), wanted.limit.into(), found.limit.into(), differences);
}

/// Returns a descriptor without the bits that the CPU or KVM may change, and without base and limit, which are compared
/// separately.
fn relevant(descriptor: &SegmentDescriptor) -> SegmentDescriptor {
    const ACCESSED: u8 = 1;
    const BUSY: u8 = 2;
    let ignored = match (descriptor.code_or_data, descriptor.is_tss()) {
        (true, _) => ACCESSED,
        (false, true) => BUSY,
        (false, false) => 0,
    };
    SegmentDescriptor { kind: descriptor.kind | ignored, granular: false, base: 0, limit: 0, ..*descriptor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::reset_state;

    fn words(wanted: &kvm_sregs, change: impl FnOnce(&mut kvm_sregs)) -> Vec<String> {
        let mut found = *wanted;
        change(&mut found);
        compare(wanted, &found).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_dropped_bit_is_named() {
        let wanted = kvm_sregs { cr0: 0x8001_0031, ..reset_state::sregs() };
        assert_eq!(words(&wanted, |found| found.cr0 = 0x0001_0031), ["cleared CR0.PG"]);
        assert_eq!(words(&wanted, |found| found.cr4 = 1 << 12), ["set CR4.LA57"]);
        assert_eq!(words(&wanted, |found| found.efer = 1 << 40), ["set EFER.bit 40"]);
    }

    #[test]
    fn what_hardware_sets_by_itself_is_no_difference() {
        let mut wanted = reset_state::sregs();
        wanted.tr.type_ = 9;
        wanted.ldt.unusable = 1;
        let changed = words(&wanted, |found| {
            found.cr0 ^= 1 << 4;
            found.cs.type_ &= !1;
            found.cs.g = 1;
            found.tr.type_ = 11;
            found.ldt = kvm_segment { unusable: 1, limit: 7, ..Default::default() };
            found.cr2 = 0x1234;
            found.apic_base = 0;
        });
        assert_eq!(changed, [""; 0]);
    }

    #[test]
    fn a_changed_segment_is_shown() {
        let wanted = reset_state::sregs();
        assert_eq!(words(&wanted, |found| found.ss.base = 0x10), ["changed SS.base from 0x0 to 0x10"]);
        assert_eq!(
            words(&wanted, |found| found.ds.dpl = 3),
            ["changed DS from (data, writable, accessed, ring 0, base 0x0, limit 0xffff) to \
              (data, writable, accessed, ring 3, base 0x0, limit 0xffff)"]
        );
        assert_eq!(
            words(&wanted, |found| found.gs.unusable = 1),
            ["changed GS from (data, writable, accessed, ring 0, base 0x0, limit 0xffff) to (not present)"]
        );
    }
}
