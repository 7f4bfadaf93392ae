//! Instructions as text: what the CPU executes next, in the width that it has at that moment.
//!
//! The same bytes mean different things to a 16-, 32- and 64-bit CPU, and a guest changes its width as it goes. So the
//! width is not taken from the configuration but from the segment that CS holds ([`operand_width`]).
//!
//! The text is in the syntax of NASM, lower case, with numbers in hexadecimal as in `mov al,[rsi+0x10]`. Decoding is
//! the work of iced-x86; nothing here executes or judges anything.

use crate::PAGE_SIZE;
use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use kvm_sys_wrap::{GuestMemory, Gva, Vcpu};
use vm_memory::Bytes;

use crate::cpu::cpu_state::{OperandWidth, linear_rip, operand_width};

/// No instruction is longer (SDM vol. 2, 2.3.11).
pub const MAX_INSTRUCTION_LENGTH: usize = 15;

/// One decoded instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// Its address as it was given: the linear one in most uses.
    pub address: u64,
    /// Its bytes, 1 to 15.
    pub bytes: Vec<u8>,
    /// The width it was decoded in.
    pub width: OperandWidth,
    /// What it is, as in `out dx,al`.
    pub text: String,
    /// The address that a near jump or call goes to, or that an operand relative to RIP names.
    pub target: Option<u64>,
}

impl Instruction {
    /// Its length in bytes, 1 to 15.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The address of the one behind it.
    #[must_use]
    pub fn next(&self) -> u64 {
        // At most 15.
        self.address.wrapping_add(u64::try_from(self.bytes.len()).unwrap_or(0))
    }
}

/// The text alone.
impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Decodes the instruction that `bytes` begin with. `address` is where it lies: targets of jumps and addresses relative
/// to RIP are computed from it.
///
/// `None` where the bytes are no instruction (the CPU would raise #UD), or only the beginning of one.
#[must_use]
pub fn decode(bytes: &[u8], width: OperandWidth, address: u64) -> Option<Instruction> {
    let mut decoder = Decoder::with_ip(width.bits(), bytes, address, DecoderOptions::NONE);
    let decoded = decoder.decode();
    if decoded.is_invalid() {
        return None;
    }
    let mut text = String::new();
    formatter().format(&decoded, &mut text);
    let target = match decoded.near_branch_target() {
        0 if decoded.is_ip_rel_memory_operand() => Some(decoded.ip_rel_memory_address()),
        0 => None,
        target => Some(target),
    };
    Some(Instruction { address, bytes: bytes.get(..decoded.len())?.to_vec(), width, text, target })
}

/// The instructions that `bytes` consist of, up to the first that is none.
pub fn decode_all(bytes: &[u8], width: OperandWidth, address: u64) -> impl Iterator<Item = Instruction> {
    let (mut rest, mut at) = (bytes, address);
    std::iter::from_fn(move || {
        let instruction = decode(rest, width, at)?;
        rest = rest.get(instruction.length()..)?;
        at = instruction.next();
        Some(instruction)
    })
}

/// The bytes at a linear address: as many of `length` as are mapped to memory.
#[must_use]
pub fn code_at(vcpu: &Vcpu, memory: &GuestMemory, linear: u64, length: usize) -> Vec<u8> {
    let mut code = vec![0; length];
    let mut done = 0;
    while let Some(rest) = code.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = linear.wrapping_add(u64::try_from(done).unwrap_or(0));
        let in_page = usize::try_from(PAGE_SIZE - at % PAGE_SIZE).unwrap_or(0).min(rest.len());
        let piece = rest.get_mut(..in_page).unwrap_or_default();
        let Ok(Some(gpa)) = vcpu.translate(Gva(at)) else { break };
        if memory.read_slice(piece, gpa.into()).is_err() {
            break;
        }
        done += in_page;
    }
    code.truncate(done);
    code
}

/// What the stopped vCPU executes next; `None` where no memory is mapped or no instruction is there.
#[must_use]
pub fn next_instruction(
    vcpu: &Vcpu,
    memory: &GuestMemory,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
) -> Option<Instruction> {
    let linear = linear_rip(regs, sregs);
    decode(&code_at(vcpu, memory, linear, MAX_INSTRUCTION_LENGTH), operand_width(sregs), linear)
}

/// How operands are written.
fn formatter() -> NasmFormatter {
    let mut formatter = NasmFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_add_leading_zero_to_hex_numbers(false);
    options.set_branch_leading_zeros(false);
    options.set_small_hex_numbers_in_decimal(false);
    options.set_rip_relative_addresses(false);
    options.set_show_branch_size(false);
    formatter
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8], width: OperandWidth) -> String {
        decode(bytes, width, 0x1000).map_or_else(|| "none".to_owned(), |instruction| instruction.text)
    }

    #[test]
    fn the_same_bytes_mean_what_the_width_says() {
        let bytes = [0x48, 0xb8, 1, 0, 0, 0, 0, 0, 0, 0x80];
        assert_eq!(text(&bytes, OperandWidth::Bits16), "dec ax");
        assert_eq!(text(&bytes, OperandWidth::Bits32), "dec eax");
        assert_eq!(text(&bytes, OperandWidth::Bits64), "mov rax,0x8000000000000001");
        assert_eq!(text(&[0xb8, 1, 0, 0, 0], OperandWidth::Bits16), "mov ax,0x1");
        assert_eq!(text(&[0xb8, 1, 0, 0, 0], OperandWidth::Bits32), "mov eax,0x1");
    }

    #[test]
    fn jumps_and_rip_relative_operands_name_their_target() {
        let jump = decode(&[0xeb, 0xfe], OperandWidth::Bits32, 0x1000).unwrap();
        assert_eq!((jump.text.as_str(), jump.target, jump.next()), ("jmp 0x1000", Some(0x1000), 0x1002));
        let lea = decode(&[0x48, 0x8d, 0x35, 0x10, 0, 0, 0], OperandWidth::Bits64, 0x1000).unwrap();
        assert_eq!((lea.text.as_str(), lea.target), ("lea rsi,[rel 0x1017]", Some(0x1017)));
        assert_eq!(decode(&[0xee], OperandWidth::Bits16, 0).unwrap().target, None);
    }

    #[test]
    fn what_is_no_instruction_is_none() {
        assert_eq!(text(&[0x0f, 0xff], OperandWidth::Bits64), "none");
        assert_eq!(text(&[0x48, 0xb8, 1], OperandWidth::Bits64), "none");
        assert_eq!(text(&[], OperandWidth::Bits16), "none");
        let all: Vec<_> =
            decode_all(&[0x90, 0xee, 0xf4, 0x0f], OperandWidth::Bits64, 0).map(|i| i.text).collect();
        assert_eq!(all, ["nop", "out dx,al", "hlt"]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_give_an_instruction_made_of_them_or_none(bytes: Vec<u8>, address: u64) {
            for width in [OperandWidth::Bits16, OperandWidth::Bits32, OperandWidth::Bits64] {
                if let Some(instruction) = decode(&bytes, width, address) {
                    assert!((1..=MAX_INSTRUCTION_LENGTH).contains(&instruction.length()));
                    assert!(bytes.starts_with(&instruction.bytes));
                    assert!(!instruction.text.is_empty());
                }
            }
        }
    }
}
