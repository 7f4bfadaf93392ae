//! Trap page for a guest in ring 3, which has no kernel: ring-0 handlers of all vectors that halt the vCPU.
//!
//! Each of the 256 gates of the IDT points to a stub, and each stub is a HLT, which exits to the VMM. Ring 3 may use only
//! the gate of `int 0x80`, which ends the run; every other vector is an exception, or an `int` that is not allowed. The
//! instruction pointer tells the vector, and the frame that the CPU pushed on the ring-0 stack tells where the guest was.
//!
//! The page is entered only through a gate. With paging, ring 3 can neither read nor write it.
//!
//! Sources: SDM vol. 3, 6.12.1 and figure 6-4 (32-bit frame), 6.14.2 (64-bit frame), 6.15 (error codes).

use crate::cpu::idt::Gate;
use crate::spec::mode::Ring;
use crate::{Gpa, Gva};

/// Size of the trap page in bytes: 256 stubs of 16 bytes.
pub const SIZE: u16 = 4096;
/// Size in bytes of the ring-0 stack, on which the CPU pushes its exception frame.
pub const STACK_SIZE: u16 = 4096;
/// Vector by which a ring-3 guest ends its run.
pub const EXIT_VECTOR: u8 = 0x80;

/// Distance between stubs.
const STRIDE: u64 = 16;
/// HLT, and a jump back to it: a vCPU that is run again halts again.
const STUB: [u8; 3] = [0xf4, 0xeb, 0xfd];

/// Trap page for a guest in ring 3: ring-0 handlers of all vectors, at their address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrapPage {
    /// Address of the first stub, both physical and virtual.
    pub address: Gpa,
}

impl TrapPage {
    /// Returns the gate that leads to a vector's stub in the trap page.
    #[must_use]
    pub const fn gate(self, vector: u8) -> Gate {
        let ring = if vector == EXIT_VECTOR { Ring::User } else { Ring::Kernel };
        Gate::interrupt(self.address.0.wrapping_add(vector as u64 * STRIDE), ring)
    }

    /// Returns the contents of the trap page. The bytes between stubs are INT3, which is never executed.
    #[must_use]
    pub fn bytes() -> Vec<u8> {
        let mut stub = [0xcc; 16];
        for (byte, code) in stub.iter_mut().zip(STUB) {
            *byte = code;
        }
        stub.repeat(256)
    }

    /// Returns the vector whose stub halted, given the instruction pointer after the HLT; `None` if it is not in a stub.
    #[must_use]
    pub fn vector(self, rip: Gva) -> Option<u8> {
        let offset = rip.0.checked_sub(self.address.0)?;
        if offset % STRIDE != 1 {
            return None;
        }
        u8::try_from(offset / STRIDE).ok()
    }
}

/// Exception frame that the CPU pushed when it left ring 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExceptionFrame {
    /// Error code; `None` for vectors without one.
    pub error_code: Option<u64>,
    /// Instruction pointer: of the faulting instruction, or after the `int n`.
    pub rip: u64,
    /// Code segment at the exception (CS).
    pub cs: u64,
    /// Flags at the exception (RFLAGS).
    pub rflags: u64,
    /// Stack pointer of ring 3 at the exception (RSP).
    pub rsp: u64,
    /// Stack segment of ring 3 at the exception (SS).
    pub ss: u64,
}

impl ExceptionFrame {
    /// Decodes the frame from `stack`, the bytes from the ring-0 stack pointer up. `long` is true if words have 8 bytes, false
    /// if 4. `None` if there are too few bytes.
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

/// Returns true if the exception pushes an error code (SDM vol. 3, table 6-1; #HV, #VC and #SX: AMD APM vol. 2, 8.2).
///
/// An `int n` with one of these vectors pushes none. Ring 3 may not execute it here: it raises #GP instead.
#[must_use]
pub const fn pushes_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

/// Returns mnemonic and name of an exception; `None` for a vector that is not one.
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
