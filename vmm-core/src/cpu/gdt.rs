//! Global descriptor table that the guest starts with: six descriptors, the same for both rings.
//!
//! The order is the one that SYSCALL and SYSRET require (SDM vol. 2, SYSRET): with 0x08 and 0x13 in IA32_STAR, SYSCALL
//! loads 0x08 and 0x10, SYSRET to 64-bit code loads 0x23 and 0x1b. A guest that starts in ring 0 has
//! user segments as well.
//!
//! Linux' boot protocol requires other selectors for code and data; its table has these two descriptors only.
//!
//! The table's bytes and the vCPU's descriptor caches come from the same [`SegmentDescriptor`] values. Real mode has no
//! table: its segments are selector times 16.

use kvm_sys_wrap::bindings::kvm_segment;

use crate::cpu::descriptor::SegmentDescriptor;
use crate::spec::GdtLayout;
use crate::spec::mode::{Mode, OperandWidth, Ring};

/// Slot of the GDT that the guest starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GdtSlot {
    /// Null descriptor, which the CPU never reads: selector 0 means "no segment".
    Null,
    /// Code segment for ring 0.
    KernelCode,
    /// Data and stack segment for ring 0.
    KernelData,
    /// Data and stack segment for ring 3.
    UserData,
    /// Code segment for ring 3.
    UserCode,
    /// Task state segment; two slots in long mode.
    Tss,
}

impl GdtSlot {
    /// Returns the selector of the slot in [`GdtLayout::Sysret`]: index times 8, plus the ring as requested privilege level.
    #[must_use]
    pub const fn selector(self) -> u16 {
        match self {
            Self::Null => 0,
            Self::KernelCode => 0x08,
            Self::KernelData => 0x10,
            Self::UserData => 0x18 | 3,
            Self::UserCode => 0x20 | 3,
            Self::Tss => 0x28,
        }
    }

    /// Returns the slots of the code and the data segment of a ring.
    #[must_use]
    pub const fn from_ring(ring: Ring) -> (Self, Self) {
        match ring {
            Ring::Kernel => (Self::KernelCode, Self::KernelData),
            Ring::User => (Self::UserCode, Self::UserData),
        }
    }
}

/// Global descriptor table (GDT) that the guest starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gdt {
    long: bool,
    selectors: GdtLayout,
    tss: SegmentDescriptor,
}

/// Returns the size of a mode's GDT in bytes; 0 in real mode, which has none.
#[must_use]
pub const fn size(mode: Mode) -> u16 {
    match mode.operand_width() {
        OperandWidth::Bits16 => 0,
        OperandWidth::Bits32 => 6 * 8,
        OperandWidth::Bits64 => 7 * 8,
    }
}

impl Gdt {
    /// Returns the GDT of a mode, with the given descriptor in [`GdtSlot::Tss`].
    #[must_use]
    pub const fn new(mode: Mode, tss: SegmentDescriptor) -> Self {
        Self { long: mode.is_long(), selectors: GdtLayout::Sysret, tss }
    }

    /// Returns the GDT with its slots in the given order.
    #[must_use]
    pub const fn ordered(self, selectors: GdtLayout) -> Self {
        Self { selectors, ..self }
    }

    /// Returns the selector of a slot in the GDT; 0 if the GDT does not have the slot.
    #[must_use]
    pub const fn selector(&self, slot: GdtSlot) -> u16 {
        match (self.selectors, slot) {
            (GdtLayout::Sysret, slot) => slot.selector(),
            (GdtLayout::Linux, GdtSlot::KernelCode) => 0x10,
            (GdtLayout::Linux, GdtSlot::KernelData) => 0x18,
            (GdtLayout::Linux, GdtSlot::Tss) => GdtSlot::Tss.selector(),
            (GdtLayout::Linux, GdtSlot::Null | GdtSlot::UserData | GdtSlot::UserCode) => 0,
        }
    }

    /// Returns the descriptor in a slot.
    #[must_use]
    pub const fn descriptor(&self, slot: GdtSlot) -> SegmentDescriptor {
        let width = if self.long { OperandWidth::Bits64 } else { OperandWidth::Bits32 };
        match slot {
            GdtSlot::Null => SegmentDescriptor::NULL,
            GdtSlot::KernelCode => SegmentDescriptor::flat_code(width, Ring::Kernel),
            GdtSlot::KernelData => SegmentDescriptor::flat_data(Ring::Kernel),
            GdtSlot::UserData => SegmentDescriptor::flat_data(Ring::User),
            GdtSlot::UserCode => SegmentDescriptor::flat_code(width, Ring::User),
            GdtSlot::Tss => self.tss,
        }
    }

    /// Returns the segment register as it is after the selector of a slot was loaded into it.
    #[must_use]
    pub const fn segment(&self, slot: GdtSlot) -> kvm_segment {
        self.descriptor(slot).segment(self.selector(slot))
    }

    /// Returns the table's bytes in guest memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let slots = match self.selectors {
            GdtLayout::Sysret => [
                GdtSlot::Null,
                GdtSlot::KernelCode,
                GdtSlot::KernelData,
                GdtSlot::UserData,
                GdtSlot::UserCode,
                GdtSlot::Tss,
            ],
            GdtLayout::Linux => [
                GdtSlot::Null,
                GdtSlot::Null,
                GdtSlot::KernelCode,
                GdtSlot::KernelData,
                GdtSlot::Null,
                GdtSlot::Tss,
            ],
        };
        let entries = slots.into_iter().map(|slot| self.descriptor(slot).entry());
        entries.chain(self.long.then_some(self.tss.high())).flat_map(u64::to_le_bytes).collect()
    }
}

/// Decodes a GDT: each descriptor with its selector. `long` is true if system descriptors have 16 bytes.
#[must_use]
pub fn decode(bytes: &[u8], long: bool) -> Vec<(u16, SegmentDescriptor)> {
    let mut entries = bytes.as_chunks::<8>().0.iter().map(|entry| u64::from_le_bytes(*entry));
    let mut found = Vec::new();
    let mut selector = 0u16;
    while let Some(entry) = entries.next() {
        let first = SegmentDescriptor::from_entry(entry, 0);
        let wide = long && first.present && !first.code_or_data;
        let high = if wide { entries.next().unwrap_or(0) } else { 0 };
        found.push((selector, SegmentDescriptor::from_entry(entry, high)));
        // A GDT has at most 64 KiB (its limit is a 16-bit number), so this ends at the last selector.
        let Some(next) = selector.checked_add(if wide { 16 } else { 8 }) else { break };
        selector = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::descriptor::TrType;

    const SLOTS: [GdtSlot; 5] =
        [GdtSlot::KernelCode, GdtSlot::KernelData, GdtSlot::UserData, GdtSlot::UserCode, GdtSlot::Tss];

    #[test]
    fn memory_and_caches_agree_in_every_mode() {
        for mode in [Mode::Protected, Mode::Paged, Mode::Pae, Mode::Long] {
            let gdt = Gdt::new(mode, SegmentDescriptor::tss(0x1_2345_6000, 0x67, TrType::Busy));
            let bytes = gdt.bytes();
            assert_eq!(bytes.len(), usize::from(size(mode)));
            let table = decode(&bytes, mode == Mode::Long);
            for slot in SLOTS {
                let segment = gdt.segment(slot);
                let (_, found) =
                    table.iter().find(|(selector, _)| *selector == segment.selector & !7).unwrap();
                let base = if mode == Mode::Long { segment.base } else { segment.base & 0xffff_ffff };
                assert_eq!(
                    found.segment(segment.selector),
                    kvm_segment { base, ..segment },
                    "{mode} {slot:?}"
                );
            }
        }
    }

    #[test]
    fn linux_finds_its_two_segments() {
        for mode in [Mode::Protected, Mode::Long] {
            let gdt =
                Gdt::new(mode, SegmentDescriptor::tss(0x1000, 0x67, TrType::Busy)).ordered(GdtLayout::Linux);
            let bytes = gdt.bytes();
            assert_eq!(bytes.len(), usize::from(size(mode)));
            let table = decode(&bytes, mode == Mode::Long);
            for (slot, selector) in
                [(GdtSlot::KernelCode, 0x10), (GdtSlot::KernelData, 0x18), (GdtSlot::Tss, 0x28)]
            {
                let segment = gdt.segment(slot);
                assert_eq!(segment.selector, selector);
                let (_, found) = table.iter().find(|(at, _)| *at == selector).unwrap();
                assert_eq!(found.segment(selector), segment);
            }
        }
    }

    #[test]
    fn selectors_carry_the_ring_of_their_segment() {
        let gdt = Gdt::new(Mode::Long, SegmentDescriptor::NULL);
        for slot in SLOTS.into_iter().filter(|slot| *slot != GdtSlot::Tss) {
            assert_eq!(slot.selector() & 3, u16::from(gdt.descriptor(slot).dpl));
        }
    }

    #[test]
    fn a_table_of_the_largest_size_ends() {
        assert_eq!(decode(&vec![0; 0x1_0010], false).len(), 0x2000);
    }
}
