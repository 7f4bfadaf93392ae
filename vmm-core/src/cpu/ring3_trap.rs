//! The landing page: ring-0 code that catches whatever leaves ring 3.
//!
//! A guest in ring 3 has no kernel below it. So each of the 256 gates of its IDT leads to a stub here, and each
//! stub is a HLT, which exits to us. `int 0x80` is the documented way back (its gate alone may be used from ring
//! 3); every other vector is an exception, or an `int` that was not allowed. Which one it was is read off the
//! instruction pointer; what the guest was doing, off the frame that the CPU pushed on the ring-0 stack.
//!
//! The page holds code and is only ever entered through a gate. Where there is paging, ring 3 can neither read nor
//! write it.
//!
//! Sources: SDM vol. 3, 6.12.1 and figure 6-4 (32-bit frame), 6.14.2 (64-bit frame), 6.15 (error codes).

use crate::cpu::idt::Gate;
use crate::spec::mode::Ring;
use crate::{Gpa, Gva};

/// Size of the page: 256 stubs of 16 bytes.
pub const SIZE: u16 = 4096;
/// Size of the stack on which the CPU pushes its frame.
pub const STACK_SIZE: u16 = 4096;
/// The vector by which a ring-3 guest ends its run.
pub const EXIT_VECTOR: u8 = 0x80;

/// Distance between stubs.
const STRIDE: u64 = 16;
/// HLT, then a jump back to it: should somebody run the vCPU on, it halts again.
const STUB: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// The landing page at its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrapPage {
    /// Address of the first stub. It is the same physical and virtual.
    pub address: Gpa,
}

impl TrapPage {
    /// The gate for a vector.
    #[must_use]
    pub const fn gate(self, vector: u8) -> Gate {
        let ring = if vector == EXIT_VECTOR { Ring::User } else { Ring::Kernel };
        Gate::interrupt(self.address.0.wrapping_add(vector as u64 * STRIDE), ring)
    }

    /// The page as it lies in guest memory. The bytes between stubs are INT3, which is never reached.
    #[must_use]
    pub fn bytes() -> Vec<u8> {
        let mut stub = [0xcc; 16];
        for (byte, code) in stub.iter_mut().zip(STUB) {
            *byte = code;
        }
        stub.repeat(256)
    }

    /// The vector whose stub halted, given the instruction pointer after the HLT; `None` if no stub did.
    #[must_use]
    pub fn vector(self, rip: Gva) -> Option<u8> {
        let offset = rip.0.checked_sub(self.address.0)?;
        if offset % STRIDE != 1 {
            return None;
        }
        u8::try_from(offset / STRIDE).ok()
    }
}

/// What the CPU pushed when it left ring 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceptionFrame {
    /// The error code, for the exceptions that have one.
    pub error_code: Option<u64>,
    /// Instruction pointer: of the faulting instruction, or behind the `int n`.
    pub rip: u64,
    /// Code segment.
    pub cs: u64,
    /// Flags.
    pub rflags: u64,
    /// Stack pointer of ring 3.
    pub rsp: u64,
    /// Stack segment of ring 3.
    pub ss: u64,
}

impl ExceptionFrame {
    /// Reads the frame from `stack`: the bytes from the ring-0 stack pointer up, as many as there are.
    ///
    /// `long` says that the words have 8 bytes and not 4. `None` if there are too few bytes.
    #[must_use]
    pub fn decode(vector: u8, stack: &[u8], long: bool) -> Option<Self> {
        let words: Vec<u64> = if long {
            stack.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).take(6).collect()
        } else {
            stack.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word).into()).take(6).collect()
        };
        let (error_code, rest) = match words.split_first() {
            Some((code, rest)) if pushes_error_code(vector) => (Some(*code), rest),
            _ => (None, words.as_slice()),
        };
        let [rip, cs, rflags, rsp, ss] = *rest.first_chunk()?;
        Some(Self { error_code, rip, cs, rflags, rsp, ss })
    }
}

/// Whether the exception pushes an error code (SDM vol. 3, table 6-1; #HV, #VC and #SX: AMD APM vol. 2, 8.2).
///
/// An `int n` with one of these vectors pushes none; from ring 3 it is not allowed here, and raises #GP instead.
#[must_use]
pub const fn pushes_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Mnemonic and name of an exception; `None` for a vector that is not one.
#[must_use]
pub const fn exception_name(vector: u8) -> Option<(&'static str, &'static str)> {
    Some(match vector {
        0 => ("#DE", "divide error"),
        1 => ("#DB", "debug exception"),
        2 => ("NMI", "non-maskable interrupt"),
        3 => ("#BP", "breakpoint"),
        4 => ("#OF", "overflow"),
        5 => ("#BR", "bound range exceeded"),
        6 => ("#UD", "invalid opcode"),
        7 => ("#NM", "device not available"),
        8 => ("#DF", "double fault"),
        10 => ("#TS", "invalid TSS"),
        11 => ("#NP", "segment not present"),
        12 => ("#SS", "stack-segment fault"),
        13 => ("#GP", "general protection"),
        14 => ("#PF", "page fault"),
        16 => ("#MF", "x87 floating-point error"),
        17 => ("#AC", "alignment check"),
        18 => ("#MC", "machine check"),
        19 => ("#XM", "SIMD floating-point exception"),
        20 => ("#VE", "virtualization exception"),
        21 => ("#CP", "control protection"),
        28 => ("#HV", "hypervisor injection"),
        29 => ("#VC", "VMM communication"),
        30 => ("#SX", "security exception"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANDING: TrapPage = TrapPage { address: Gpa(0x5000) };

    #[test]
    fn each_gate_leads_to_a_stub_that_gives_its_vector_back() {
        let page = TrapPage::bytes();
        assert_eq!(page.len(), usize::from(SIZE));
        for vector in 0..=255u8 {
            let gate = LANDING.gate(vector);
            let stub = usize::try_from(gate.offset - LANDING.address.0).unwrap();
            assert_eq!(page[stub], 0xf4, "HLT");
            assert_eq!(LANDING.vector(Gva(gate.offset + 1)), Some(vector));
            assert_eq!(LANDING.vector(Gva(gate.offset)), None);
            assert_eq!(gate.dpl, if vector == 0x80 { 3 } else { 0 });
        }
    }

    #[test]
    fn an_instruction_pointer_outside_the_page_has_no_vector() {
        assert_eq!(LANDING.vector(Gva(0x4ff1)), None);
        assert_eq!(LANDING.vector(Gva(0x6001)), None);
        assert_eq!(LANDING.vector(Gva(u64::MAX)), None);
    }

    #[test]
    fn frames_with_and_without_error_code() {
        let push = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let with = push(&[4, 0x1000, 0x23, 0x202, 0x8000, 0x1b]);
        let frame = ExceptionFrame::decode(14, &with, true).unwrap();
        assert_eq!((frame.error_code, frame.rip, frame.ss), (Some(4), 0x1000, 0x1b));
        let frame = ExceptionFrame::decode(0x80, &with[8..], true).unwrap();
        assert_eq!((frame.error_code, frame.rip, frame.ss), (None, 0x1000, 0x1b));
        assert_eq!(ExceptionFrame::decode(14, &with[8..], true), None);
        let narrow: Vec<u8> =
            [0x1000u32, 0x23, 0x202, 0x8000, 0x1b].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(ExceptionFrame::decode(6, &narrow, false).unwrap().rsp, 0x8000);
    }
}
