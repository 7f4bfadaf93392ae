//! Task state segment: the ring-0 stack pointer, and the ports that ring 3 may use.
//!
//! The task register must hold a TSS in protected and long mode even without task switches. The CPU reads two fields: the
//! new stack pointer when an exception enters ring 0 from ring 3, and the I/O permission bitmap when ring 3 executes IN or
//! OUT (a 0 bit allows the port).
//!
//! A ring-3 guest gets a bitmap of zeros, so that all ports work. A ring-0 guest gets no bitmap: its offset is beyond the
//! limit, so that ring 3 may use no port.
//!
//! Sources: SDM vol. 3, 7.2.1 (32-bit TSS), 7.7 (64-bit TSS); vol. 1, 19.5.2 (I/O permission bitmap).

use crate::spec::mode::{Mode, Ring};

/// Size of the TSS without a bitmap, in 32-bit as in 64-bit form.
const HEADER: u16 = 104;
/// Size of the bitmap: one bit for each of the 65536 ports.
const BITMAP: u16 = 8192;
/// Offset of the 16-bit field that holds the offset of the bitmap.
const BITMAP_FIELD: usize = 102;

/// Contents of a task state segment (TSS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tss {
    /// True for the 64-bit form of the TSS, false for the 32-bit form.
    pub long: bool,
    /// Stack pointer that the CPU loads when it enters ring 0 from ring 3.
    pub ring0_stack: u64,
    /// Stack segment that the CPU loads with the stack pointer; 0 in the 64-bit form, which has none.
    pub ring0_segment: u16,
    /// True if ring 3 may use all ports, false if it may use none.
    pub all_ports: bool,
}

/// Returns the size of the TSS in bytes; 0 in real mode, which has none.
#[must_use]
pub const fn size(mode: Mode, ring: Ring) -> u16 {
    match ring {
        _ if !mode.is_protected() => 0,
        Ring::Kernel => HEADER,
        // The CPU reads two bytes of the bitmap at a time, so a byte of ones must follow it.
        Ring::User => HEADER + BITMAP + 1,
    }
}

impl Tss {
    /// Returns the contents of the TSS in guest memory.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::from(HEADER + BITMAP + 1));
        // Offset 0: link to the previous task; in the 64-bit form, reserved.
        bytes.extend(0u32.to_le_bytes());
        // Offset 4: RSP0, or ESP0 and SS0. A 32-bit stack pointer lies below 4 GiB, so its upper half is 0.
        let segment = if self.long { 0 } else { u64::from(self.ring0_segment) << 32 };
        bytes.extend((self.ring0_stack | segment).to_le_bytes());
        // The other stacks, and in the 32-bit form the registers that a task switch would load.
        bytes.resize(BITMAP_FIELD, 0);
        bytes.extend(HEADER.to_le_bytes());
        if self.all_ports {
            bytes.resize(usize::from(HEADER + BITMAP), 0);
            bytes.push(0xff);
        }
        bytes
    }

    /// Decodes a TSS; `None` if it is too short.
    #[must_use]
    pub fn decode(bytes: &[u8], long: bool) -> Option<Self> {
        let stack = u64::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
        let bitmap_at = u16::from_le_bytes(*bytes.get(BITMAP_FIELD..)?.first_chunk()?);
        let bitmap = bytes.get(usize::from(bitmap_at)..).unwrap_or_default();
        let (allowed, rest) = bitmap.split_at_checked(usize::from(BITMAP)).unwrap_or_default();
        let all_ports =
            !allowed.is_empty() && allowed.iter().all(|byte| *byte == 0) && rest.first() == Some(&0xff);
        Some(Self {
            long,
            ring0_stack: if long { stack } else { stack & 0xffff_ffff },
            ring0_segment: if long { 0 } else { (stack >> 32 & 0xffff) as u16 },
            all_ports,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_read_back_as_written() {
        for long in [false, true] {
            for all_ports in [false, true] {
                let ring0_segment = if long { 0 } else { 0x10 };
                let tss = Tss { long, ring0_stack: 0x8000, ring0_segment, all_ports };
                assert_eq!(Tss::decode(&tss.bytes(), long), Some(tss));
            }
        }
    }

    #[test]
    fn sizes_agree_with_the_bytes() {
        let tss = |ring| Tss { long: true, ring0_stack: 0, ring0_segment: 0, all_ports: ring == Ring::User };
        for ring in [Ring::Kernel, Ring::User] {
            assert_eq!(tss(ring).bytes().len(), usize::from(size(Mode::Long, ring)));
        }
    }

    #[test]
    fn the_fields_lie_where_the_manual_has_them() {
        let narrow =
            Tss { long: false, ring0_stack: 0x1234_5678, ring0_segment: 0x10, all_ports: true }.bytes();
        assert_eq!(narrow[4..10], [0x78, 0x56, 0x34, 0x12, 0x10, 0]);
        assert_eq!(narrow[102..104], [104, 0]);
        assert_eq!(narrow.len(), 104 + 8192 + 1);
        assert_eq!(narrow.last(), Some(&0xff));
        let wide = Tss { long: true, ring0_stack: 0xffff_8000_1234_5678, ring0_segment: 0, all_ports: false };
        assert_eq!(wide.bytes()[4..12], 0xffff_8000_1234_5678u64.to_le_bytes());
        assert_eq!(wide.bytes().len(), 104);
    }

    #[test]
    fn a_short_segment_is_refused() {
        assert_eq!(Tss::decode(&[0; 103], true), None);
    }
}
