//! Interrupt descriptor table: 256 gates, one for the handler of each vector.
//!
//! A ring-0 guest gets a table of gates that are not present, which it fills in. An exception before that ends in a triple
//! fault, which KVM reports as KVM_EXIT_SHUTDOWN. The gates of a ring-3 guest point to the trap page
//! ([`super::ring3_trap`]).
//!
//! Real mode has an interrupt vector table instead: 256 far pointers at address 0, which the guest fills in.
//!
//! Sources: SDM vol. 3, 6.11 (32-bit gates), 6.14.1 (64-bit gates), 20.1.4 (real mode).

use std::fmt;

use crate::cpu::gdt::GdtSlot;
use crate::spec::mode::{Mode, OperandWidth, Ring};

/// Number of interrupt vectors of an x86 CPU.
pub const VECTORS: u16 = 256;

/// Gate of the IDT: an interrupt gate or a trap gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gate {
    /// Address of the handler in the code segment.
    pub offset: u64,
    /// Selector of the handler's code segment.
    pub selector: u16,
    /// Number of the interrupt stack in the 64-bit TSS; 0 for the current stack, or that of the new ring.
    pub ist: u8,
    /// Type field: 0xe is an interrupt gate (clears IF), 0xf a trap gate.
    pub kind: u8,
    /// Least privileged ring that may use the gate by `int n`. Exceptions ignore it.
    pub dpl: u8,
    /// P bit: true if the gate is present.
    pub present: bool,
}

impl Gate {
    /// Gate that is not present: using it raises #NP.
    pub const NOT_PRESENT: Self = Self { offset: 0, selector: 0, ist: 0, kind: 0, dpl: 0, present: false };

    /// Returns an interrupt gate to ring-0 code at `offset` that `ring` may use by `int n`.
    #[must_use]
    pub const fn interrupt(offset: u64, ring: Ring) -> Self {
        let selector = GdtSlot::KernelCode.selector();
        Self { offset, selector, ist: 0, kind: 0xe, dpl: ring.level(), present: true }
    }

    /// Returns the first 8 bytes of the gate as they are in the IDT. In long mode, 8 more bytes follow with the upper half of
    /// the offset.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        (self.offset & 0xffff)
            | (self.selector as u64) << 16
            | (self.ist as u64 & 7) << 32
            | (self.kind as u64 & 0xf) << 40
            | (self.dpl as u64 & 3) << 45
            | (self.present as u64) << 47
            | (self.offset >> 16 & 0xffff) << 48
    }

    /// Decodes a gate; `high` is 0 outside long mode.
    #[must_use]
    pub const fn from_entry(entry: u64, high: u64) -> Self {
        Self {
            offset: (entry & 0xffff) | (entry >> 48) << 16 | (high & 0xffff_ffff) << 32,
            selector: (entry >> 16 & 0xffff) as u16,
            ist: (entry >> 32 & 7) as u8,
            kind: (entry >> 40 & 0xf) as u8,
            dpl: (entry >> 45 & 3) as u8,
            present: entry >> 47 & 1 != 0,
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.present {
            return f.write_str("not present");
        }
        let kind = match self.kind {
            0x5 => "task gate".to_owned(),
            0xe => "interrupt gate".to_owned(),
            0xf => "trap gate".to_owned(),
            other => format!("type {other}"),
        };
        write!(f, "{kind} to {:#x}:{:#x}, usable from ring {}", self.selector, self.offset, self.dpl)?;
        if self.ist != 0 { write!(f, ", interrupt stack {}", self.ist) } else { Ok(()) }
    }
}

/// Returns the size of a mode's IDT in bytes; 0 in real mode, where the guest has a vector table at address 0.
#[must_use]
pub const fn size(mode: Mode) -> u16 {
    match mode.operand_width() {
        OperandWidth::Bits16 => 0,
        OperandWidth::Bits32 => VECTORS * 8,
        OperandWidth::Bits64 => VECTORS * 16,
    }
}

/// Returns the IDT's bytes in guest memory, with the gate that `gate` returns for each vector.
#[must_use]
pub fn bytes(long: bool, gate: impl Fn(u8) -> Gate) -> Vec<u8> {
    let gates = (0..=u8::MAX).map(gate);
    if long {
        gates.flat_map(|gate| [gate.entry(), gate.offset >> 32]).flat_map(u64::to_le_bytes).collect()
    } else {
        gates.flat_map(|gate| gate.entry().to_le_bytes()).collect()
    }
}

/// Decodes an IDT: its gates in the order of vectors.
#[must_use]
pub fn decode(bytes: &[u8], long: bool) -> Vec<Gate> {
    let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    if long {
        words.as_chunks::<2>().0.iter().map(|[entry, high]| Gate::from_entry(*entry, *high)).collect()
    } else {
        words.iter().map(|entry| Gate::from_entry(*entry, 0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_interrupt_gate_has_the_well_known_value() {
        assert_eq!(Gate::interrupt(0x0012_3456, Ring::Kernel).entry(), 0x0012_8e00_0008_3456);
        assert_eq!(Gate::interrupt(0x0012_3456, Ring::User).entry(), 0x0012_ee00_0008_3456);
    }

    #[test]
    fn a_table_has_one_gate_for_each_vector() {
        for mode in [Mode::Protected, Mode::Long] {
            let long = mode == Mode::Long;
            let table = bytes(long, |vector| Gate::interrupt(0x5000 + u64::from(vector) * 16, Ring::Kernel));
            assert_eq!(table.len(), usize::from(size(mode)));
            let gates = decode(&table, long);
            assert_eq!(gates.len(), 256);
            assert_eq!(gates[14], Gate::interrupt(0x50e0, Ring::Kernel));
        }
    }

    #[test]
    fn an_empty_gate_is_all_zero() {
        assert_eq!(Gate::NOT_PRESENT.entry(), 0);
        assert!(bytes(true, |_| Gate::NOT_PRESENT).iter().all(|byte| *byte == 0));
    }

    proptest! {
        #[test]
        fn a_gate_survives_the_way_through_memory(
            offset: u64, selector: u16, ist in 0u8..8, kind in 0u8..16, dpl in 0u8..4, present: bool,
        ) {
            let gate = Gate { offset, selector, ist, kind, dpl, present };
            prop_assert_eq!(decode(&bytes(true, |_| gate), true)[255], gate);
            let narrow = Gate { offset: offset & 0xffff_ffff, ..gate };
            prop_assert_eq!(decode(&bytes(false, |_| narrow), false)[0], narrow);
        }
    }
}
