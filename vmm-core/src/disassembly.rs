//! Disassembly of guest code with iced-x86.
//!
//! The operand width comes from CS ([`operand_width`]), not from the configuration, because a guest may change
//! its mode. The text is in NASM syntax, lower case, with hexadecimal numbers, such as `mov al,[rsi+0x10]`.

use crate::PAGE_SIZE;
use std::fmt;

use iced_x86::{Decoder, DecoderOptions, Formatter, NasmFormatter};
use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use kvm_sys_wrap::{GuestMemory, Gva, Vcpu};
use vm_memory::Bytes;

use crate::cpu::cpu_state::{OperandWidth, linear_rip, operand_width};

/// Maximum length of an instruction in bytes (SDM vol. 2, 2.3.11).
pub const MAX_INSTRUCTION_LENGTH: usize = 15;

/// Decoded x86 instruction: its address, bytes and text.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instruction {
    /// Address that was passed to the decoder, usually the linear address.
    pub address: u64,
    /// Bytes of the instruction, 1 to 15.
    pub bytes: Vec<u8>,
    /// Operand width that the instruction was decoded with.
    pub width: OperandWidth,
    /// Instruction in NASM syntax, such as `out dx,al`.
    pub text: String,
    /// Target of a near branch, or address of a RIP-relative operand.
    pub target: Option<u64>,
}

impl Instruction {
    /// Returns the length in bytes, 1 to 15.
    #[must_use]
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the address of the next instruction in memory.
    #[must_use]
    pub fn next_address(&self) -> u64 {
        // At most 15.
        self.address.wrapping_add(u64::try_from(self.bytes.len()).unwrap_or(0))
    }
}

/// Writes the instruction in NASM syntax.
impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Decodes the instruction at the start of `bytes`. Branch targets and RIP-relative addresses are computed from `address`.
///
/// Returns `None` if the bytes are not an instruction (the CPU would raise #UD) or only the beginning of one.
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

/// Decodes consecutive instructions, up to the first bytes that do not decode.
pub fn decode_all(bytes: &[u8], width: OperandWidth, address: u64) -> impl Iterator<Item = Instruction> {
    let (mut rest, mut at) = (bytes, address);
    std::iter::from_fn(move || {
        let instruction = decode(rest, width, at)?;
        rest = rest.get(instruction.length()..)?;
        at = instruction.next_address();
        Some(instruction)
    })
}

/// Reads up to `length` bytes at a linear address, up to the first page that is not mapped to guest memory.
///
/// Uses `KVM_TRANSLATE` for each page.
#[must_use]
pub fn read_code(vcpu: &Vcpu, memory: &GuestMemory, linear: u64, length: usize) -> Vec<u8> {
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

/// Decodes the next instruction of a stopped vCPU.
///
/// Returns `None` if no memory is mapped at RIP or the bytes are not an instruction.
#[must_use]
pub fn next_instruction(
    vcpu: &Vcpu,
    memory: &GuestMemory,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
) -> Option<Instruction> {
    let linear = linear_rip(regs, sregs);
    decode(&read_code(vcpu, memory, linear, MAX_INSTRUCTION_LENGTH), operand_width(sregs), linear)
}

/// Returns a formatter for lower-case NASM syntax with hexadecimal numbers.
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
    fn the_width_selects_the_decoding() {
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
        assert_eq!(
            (jump.text.as_str(), jump.target, jump.next_address()),
            ("jmp 0x1000", Some(0x1000), 0x1002)
        );
        let lea = decode(&[0x48, 0x8d, 0x35, 0x10, 0, 0, 0], OperandWidth::Bits64, 0x1000).unwrap();
        assert_eq!((lea.text.as_str(), lea.target), ("lea rsi,[rel 0x1017]", Some(0x1017)));
        assert_eq!(decode(&[0xee], OperandWidth::Bits16, 0).unwrap().target, None);
    }

    #[test]
    fn invalid_bytes_decode_to_none() {
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
