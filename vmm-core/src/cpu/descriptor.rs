//! Segment descriptors: one type for both the 8 bytes in the GDT and the `kvm_segment` of the vCPU.
//!
//! A CPU reads a descriptor from the GDT when a selector is loaded, and then uses a copy, the descriptor cache.
//! `KVM_SET_SREGS` writes the cache directly, so a guest runs without a GDT until it reloads a segment. Both come from one
//! value, so they never differ.
//!
//! Accessed bits are set from the start. VM entry requires them in the cache (SDM vol. 3, 26.3.1.2), and the CPU does not
//! write to a GDT that has them, so it may be in read-only memory.
//!
//! Sources: SDM vol. 3, 3.4.5 (segment descriptors), 7.2.2 (32-bit TSS descriptor), 7.2.3 (64-bit).

use std::fmt;

use kvm_sys_wrap::bindings::{kvm_segment, kvm_sregs};

use crate::spec::mode::{OperandWidth, Ring};

/// Returns the segment registers and their names, in the order of reports.
#[must_use]
pub const fn named_segments(sregs: &kvm_sregs) -> [(&'static str, &kvm_segment); 8] {
    [
        ("CS", &sregs.cs),
        ("DS", &sregs.ds),
        ("ES", &sregs.es),
        ("FS", &sregs.fs),
        ("GS", &sregs.gs),
        ("SS", &sregs.ss),
        ("TR", &sregs.tr),
        ("LDTR", &sregs.ldt),
    ]
}

/// Type of the TSS descriptor in the task register: busy or available.
///
/// A running CPU has a busy TSS (11): LTR sets that type, and Intel's VM entry requires it (SDM vol. 3, 26.3.1.2). AMD's
/// VMRUN does not check it, and kvm-amd always reads the type back as busy. QEMU's emulated AMD host needs type available
/// (9) for a guest in ring 3: with a busy TSS it stops itself (32-bit code), or refuses every port that the I/O permission
/// bitmap allows (64-bit code).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrType {
    /// Busy TSS (descriptor type 11), as LTR leaves it.
    #[default]
    Busy,
    /// Available TSS (descriptor type 9), as before LTR.
    Available,
}

impl TrType {
    /// Returns the type field of the descriptor: 9 or 11.
    #[must_use]
    pub const fn kind(self) -> u8 {
        match self {
            Self::Busy => TYPE_TSS_BUSY,
            Self::Available => TYPE_TSS_AVAILABLE,
        }
    }
}

/// Type field of system descriptors (SDM vol. 3, table 3-2).
const TYPE_LDT: u8 = 2;
const TYPE_TSS_AVAILABLE: u8 = 9;
const TYPE_TSS_BUSY: u8 = 11;
/// Type fields of code and data descriptors, with the accessed bit set (SDM vol. 3, table 3-1).
const TYPE_DATA_WRITE: u8 = 3;
const TYPE_CODE_READ: u8 = 11;

/// Segment descriptor: a code, data or system segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentDescriptor {
    /// First linear address of the segment.
    pub base: u64,
    /// Offset of the last byte of the segment, in bytes whatever the granularity.
    pub limit: u32,
    /// Type field of the descriptor, 4 bits.
    pub kind: u8,
    /// S bit: true for a code or data segment, false for a system segment.
    pub code_or_data: bool,
    /// Descriptor privilege level, 0 to 3.
    pub dpl: u8,
    /// P bit: true if the segment is present.
    pub present: bool,
    /// AVL bit: free for use by software.
    pub available: bool,
    /// L bit: true for 64-bit code.
    pub long: bool,
    /// D/B bit: true for 32-bit code or a 32-bit stack.
    pub big: bool,
    /// G bit: true if the descriptor's limit is in units of 4 KiB.
    pub granular: bool,
}

impl SegmentDescriptor {
    /// Null descriptor: an empty slot of the GDT, or an unusable segment in a descriptor cache.
    pub const NULL: Self = Self {
        base: 0,
        limit: 0,
        kind: 0,
        code_or_data: false,
        dpl: 0,
        present: false,
        available: false,
        long: false,
        big: false,
        granular: false,
    };

    /// Returns a writable data segment of 4 GiB at address 0.
    #[must_use]
    pub const fn flat_data(ring: Ring) -> Self {
        Self {
            limit: u32::MAX,
            kind: TYPE_DATA_WRITE,
            code_or_data: true,
            dpl: ring.level(),
            present: true,
            big: true,
            granular: true,
            ..Self::NULL
        }
    }

    /// Returns a readable code segment of the whole address space. D and L together are reserved (SDM vol. 3, 3.4.5).
    #[must_use]
    pub const fn flat_code(width: OperandWidth, ring: Ring) -> Self {
        let long = matches!(width, OperandWidth::Bits64);
        let big = matches!(width, OperandWidth::Bits32);
        Self { kind: TYPE_CODE_READ, long, big, ..Self::flat_data(ring) }
    }

    /// Returns the descriptor of the TSS at `base`; `limit` is the offset of its last byte.
    #[must_use]
    pub const fn tss(base: u64, limit: u32, tr: TrType) -> Self {
        Self { base, limit, kind: tr.kind(), present: true, granular: limit > 0xf_ffff, ..Self::NULL }
    }

    /// Returns the first 8 bytes of the descriptor as they are in the GDT. For a 64-bit TSS, [`SegmentDescriptor::high`]
    /// returns the other 8.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        let limit = (if self.granular { self.limit >> 12 } else { self.limit & 0xf_ffff }) as u64;
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | (self.kind as u64 & 0xf) << 40
            | (self.code_or_data as u64) << 44
            | (self.dpl as u64 & 3) << 45
            | (self.present as u64) << 47
            | (limit >> 16) << 48
            | (self.available as u64) << 52
            | (self.long as u64) << 53
            | (self.big as u64) << 54
            | (self.granular as u64) << 55
            | (self.base >> 24 & 0xff) << 56
    }

    /// Returns bytes 8 to 15 of a system descriptor in long mode: the upper half of the base.
    #[must_use]
    pub const fn high(&self) -> u64 {
        self.base >> 32
    }

    /// Decodes a descriptor of the GDT; `high` is 0 except for system descriptors in long mode.
    #[must_use]
    pub fn from_entry(entry: u64, high: u64) -> Self {
        let bit = |number: u32| entry >> number & 1 != 0;
        let granular = bit(55);
        let raw = (entry & 0xffff) | (entry >> 48 & 0xf) << 16;
        let limit = if granular { raw << 12 | 0xfff } else { raw };
        Self {
            base: (entry >> 16 & 0xff_ffff) | (entry >> 56) << 24 | (high & 0xffff_ffff) << 32,
            limit: (limit & 0xffff_ffff) as u32,
            kind: (entry >> 40 & 0xf) as u8,
            code_or_data: bit(44),
            dpl: (entry >> 45 & 3) as u8,
            present: bit(47),
            available: bit(52),
            long: bit(53),
            big: bit(54),
            granular,
        }
    }
}

/// Conversion from and to KVM's form of the descriptor cache.
impl SegmentDescriptor {
    /// Returns the segment register with `selector` for `KVM_SET_SREGS`.
    ///
    /// A segment that is not present must also be marked unusable: on Intel that is a separate bit in the VMCS (SDM vol. 3,
    /// 24.4.1), on AMD it is the P bit.
    #[must_use]
    pub const fn segment(&self, selector: u16) -> kvm_segment {
        kvm_segment {
            base: self.base,
            limit: self.limit,
            selector,
            type_: self.kind,
            present: self.present as u8,
            dpl: self.dpl,
            db: self.big as u8,
            s: self.code_or_data as u8,
            l: self.long as u8,
            g: self.granular as u8,
            avl: self.available as u8,
            unusable: !self.present as u8,
            padding: 0,
        }
    }

    /// Returns the descriptor of a segment register, without the selector.
    #[must_use]
    pub const fn from_segment(segment: &kvm_segment) -> Self {
        Self {
            base: segment.base,
            limit: segment.limit,
            kind: segment.type_ & 0xf,
            code_or_data: segment.s != 0,
            dpl: segment.dpl & 3,
            present: segment.present != 0 && segment.unusable == 0,
            available: segment.avl != 0,
            long: segment.l != 0,
            big: segment.db != 0,
            granular: segment.g != 0,
        }
    }

    /// Returns true for a task state segment, available or busy, of 16, 32 or 64 bits.
    #[must_use]
    pub const fn is_tss(&self) -> bool {
        !self.code_or_data && matches!(self.kind, 1 | 3 | TYPE_TSS_AVAILABLE | TYPE_TSS_BUSY)
    }

    /// Returns the meaning of the type field (SDM vol. 3, tables 3-1 and 3-2).
    fn describe_kind(&self) -> String {
        if !self.code_or_data {
            let name = match self.kind {
                1 => "16-bit TSS, available",
                TYPE_LDT => "LDT",
                3 => "16-bit TSS, busy",
                TYPE_TSS_AVAILABLE => "TSS, available",
                TYPE_TSS_BUSY => "TSS, busy",
                0xc => "call gate",
                0xe => "interrupt gate",
                0xf => "trap gate",
                other => return format!("system type {other}"),
            };
            return name.to_owned();
        }
        let code = self.kind & 8 != 0;
        let width = match (code, self.long, self.big) {
            (true, true, _) => "64-bit ",
            (true, false, true) => "32-bit ",
            (true, false, false) => "16-bit ",
            (false, ..) => "",
        };
        let access = match (code, self.kind & 2 != 0) {
            (true, true) => "code, readable",
            (true, false) => "code, execute-only",
            (false, true) => "data, writable",
            (false, false) => "data, read-only",
        };
        let fourth = match (self.kind & 4 != 0, code) {
            (false, _) => "",
            (true, true) => ", conforming",
            (true, false) => ", expand-down",
        };
        let accessed = if self.kind & 1 != 0 { ", accessed" } else { "" };
        format!("{width}{access}{fourth}{accessed}")
    }
}

impl fmt::Display for SegmentDescriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.present {
            return f.write_str("not present");
        }
        write!(
            f,
            "{}, ring {}, base {:#x}, limit {:#x}",
            self.describe_kind(),
            self.dpl,
            self.base,
            self.limit
        )?;
        if self.granular { f.write_str(" (in pages)") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The values that Linux' `arch/x86/kernel/cpu/common.c` and every osdev page give for flat segments, with the
    /// accessed bit set.
    #[test]
    fn flat_descriptors_have_the_well_known_values() {
        let code = |width, ring| SegmentDescriptor::flat_code(width, ring).entry();
        assert_eq!(code(OperandWidth::Bits32, Ring::Kernel), 0x00cf_9b00_0000_ffff);
        assert_eq!(code(OperandWidth::Bits64, Ring::Kernel), 0x00af_9b00_0000_ffff);
        assert_eq!(code(OperandWidth::Bits32, Ring::User), 0x00cf_fb00_0000_ffff);
        assert_eq!(code(OperandWidth::Bits64, Ring::User), 0x00af_fb00_0000_ffff);
        assert_eq!(SegmentDescriptor::flat_data(Ring::Kernel).entry(), 0x00cf_9300_0000_ffff);
        assert_eq!(SegmentDescriptor::flat_data(Ring::User).entry(), 0x00cf_f300_0000_ffff);
        assert_eq!(SegmentDescriptor::NULL.entry(), 0);
    }

    #[test]
    fn a_tss_above_4_gib_needs_both_halves() {
        let tss = SegmentDescriptor::tss(0x12_3456_7000, 0x67, TrType::Busy);
        assert_eq!((tss.entry(), tss.high()), (0x3400_8b56_7000_0067, 0x12));
        assert_eq!(SegmentDescriptor::from_entry(tss.entry(), tss.high()), tss);
        assert_eq!(tss.to_string(), "TSS, busy, ring 0, base 0x1234567000, limit 0x67");
    }

    #[test]
    fn a_null_descriptor_is_an_unusable_segment() {
        let segment = SegmentDescriptor::NULL.segment(0);
        assert_eq!((segment.present, segment.unusable), (0, 1));
        assert_eq!(SegmentDescriptor::from_segment(&segment), SegmentDescriptor::NULL);
    }

    proptest! {
        /// Bytes -> descriptor -> `kvm_segment` -> descriptor -> bytes loses nothing for any present descriptor.
        #[test]
        fn every_entry_survives_the_way_through_kvm_segment(random: u64, selector: u16) {
            let entry = random | 1 << 47;
            let segment = SegmentDescriptor::from_entry(entry, 0).segment(selector);
            prop_assert_eq!(segment.selector, selector);
            prop_assert_eq!(SegmentDescriptor::from_segment(&segment).entry(), entry);
        }

        #[test]
        fn every_segment_survives_the_way_through_the_gdt(
            base: u64, pages in 0u32..1 << 20, granular: bool, kind in 0u8..16, dpl in 0u8..4,
            code_or_data: bool, available: bool, long: bool, big: bool,
        ) {
            let limit = if granular { pages << 12 | 0xfff } else { pages };
            let wanted = SegmentDescriptor {
                base, limit, kind, code_or_data, dpl, present: true, available, long, big, granular,
            };
            let found = SegmentDescriptor::from_entry(wanted.entry(), wanted.high());
            prop_assert_eq!(found.segment(8), wanted.segment(8));
        }
    }
}
