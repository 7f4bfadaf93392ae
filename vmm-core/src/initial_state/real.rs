//! Segments of real mode: the base is the selector times 16, and there are no descriptor tables.
//!
//! An entry given as segment:offset is used as it is. For an entry given as an address, CS gets its 64 KiB window
//! and IP the rest: 0x7c00 becomes 0000:7c00, 0x12345 becomes 1000:2345. So code linked at its address, or at that
//! address within a 64 KiB window, finds its own labels.
//!
//! DS, ES, FS and GS equal CS, as for a .COM program, so that data next to the code can be addressed. For an entry below
//! 64 KiB given as an address, all are 0.
//!
//! The stack has SS = 0 if its top lies below 64 KiB; otherwise SS is such that SP is just below its maximum.
//!
//! GDTR keeps its reset value: a guest that uses it loads it. IDTR is set as by firmware, to the interrupt vector table at
//! address 0, which the guest fills in (SDM vol. 3, 20.1.4).

use kvm_sys_wrap::bindings::{kvm_segment, kvm_sregs};

use super::{StateError, required};
use crate::cpu::idt;
use crate::layout::{Layout, LayoutPart};
use crate::spec::{BootSpec, EntryPoint};

/// End of the addresses of 20 bits.
pub(super) const LIMIT: u64 = 1 << 20;
/// Highest SP that is a multiple of 16.
const TOP_OFFSET: u64 = 0xfff0;

/// Returns CS and IP for an entry; `None` if it is not below 1 MiB.
pub(super) fn code_address(entry: EntryPoint) -> Option<(u16, u16)> {
    match entry {
        EntryPoint::Address(gva) if gva.0 < LIMIT => {
            let window = u16::try_from(gva.0 >> 16 << 12).ok()?;
            Some((window, u16::try_from(gva.0 & 0xffff).ok()?))
        }
        EntryPoint::Address(_) => None,
        EntryPoint::Segmented { segment, offset } => {
            let address = u64::from(segment) * 16 + u64::from(offset);
            (address < LIMIT).then_some((segment, offset))
        }
    }
}

/// Returns SS and SP for the end of the stack, which is at most 1 MiB.
pub(super) fn stack_address(top: u64) -> (u16, u16) {
    let segment = if top <= 0xffff { 0 } else { top.saturating_sub(TOP_OFFSET).div_ceil(16) };
    let offset = top.saturating_sub(segment * 16);
    (u16::try_from(segment).unwrap_or(u16::MAX), u16::try_from(offset).unwrap_or(u16::MAX))
}

/// Sets the segment registers and IDTR.
pub(super) fn segments(sregs: &mut kvm_sregs, boot: &BootSpec, layout: &Layout) -> Result<(), StateError> {
    // An entry above 1 MiB is reported with all other problems, and the state is not used.
    let (cs, _) = code_address(boot.entry).unwrap_or_default();
    let (ss, _) = stack_address(required(layout, LayoutPart::Stack)?.end().0);
    sregs.cs = at(&sregs.cs, cs);
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs] {
        *segment = at(segment, cs);
    }
    sregs.ss = at(&sregs.ss, ss);
    sregs.idt.base = 0;
    sregs.idt.limit = idt::VECTORS * 4 - 1;
    Ok(())
}

/// Returns a segment register after loading a selector in real mode: the rest of the descriptor cache does not change.
fn at(segment: &kvm_segment, selector: u16) -> kvm_segment {
    kvm_segment { selector, base: u64::from(selector) * 16, ..*segment }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Gva;

    #[test]
    fn entries_as_addresses() {
        let entry = |address| code_address(EntryPoint::Address(Gva(address)));
        assert_eq!(entry(0x7c00), Some((0, 0x7c00)));
        assert_eq!(entry(0x12345), Some((0x1000, 0x2345)));
        assert_eq!(entry(0xf_ffff), Some((0xf000, 0xffff)));
        assert_eq!(entry(0x10_0000), None);
    }

    #[test]
    fn entries_as_segment_and_offset() {
        let entry = |segment, offset| code_address(EntryPoint::Segmented { segment, offset });
        assert_eq!(entry(0x7c0, 0), Some((0x7c0, 0)));
        assert_eq!(entry(0xffff, 0x000f), Some((0xffff, 0xf)));
        assert_eq!(entry(0xffff, 0x0010), None);
    }

    proptest! {
        #[test]
        fn segment_and_offset_make_the_address(address in 0..LIMIT, top in 0..=LIMIT) {
            let linear = |(segment, offset)| u64::from(segment) * 16 + u64::from(offset);
            prop_assert_eq!(code_address(EntryPoint::Address(Gva(address))).map(linear), Some(address));
            prop_assert_eq!(linear(stack_address(top)), top);
        }
    }
}
