//! Finds the instruction that made an exit, its symbol and its source line.
//!
//! At an exit, RIP is at the instruction or already after it. That depends on the kind of exit and on the host's KVM:
//! its emulator writes RIP back before it reports a write, hardware exits do so afterwards. So the instruction at RIP
//! and the previous one are decoded, and the one that can have made the exit is taken. Where both can, as in a row of
//! OUTs, the result of the last unambiguous exit decides.

use std::collections::HashMap;

use vmm_core::cpu::cpu_state::{OperandWidth, linear_rip, operand_width};
use vmm_core::cpu::exit_counts::ExitKind;
use vmm_core::disassembly::{Instruction, MAX_INSTRUCTION_LENGTH, decode, decode_all, read_code};
use vmm_core::kvm_sys_wrap::Exit;
use vmm_core::kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use vmm_core::machine::observer::ExitView;

use super::event::CodeLocation;
use crate::prepare::Files;

/// Maximum number of bytes decoded from the start of a symbol.
const MAX_CODE: u64 = 4096;

/// Finds code locations, and caches them.
pub(crate) struct Symbolizer<'a> {
    files: &'a Files,
    names: HashMap<u64, (Option<String>, Option<String>)>,
    instructions: HashMap<(u64, ExitKind), u64>,
    /// True if this host reports port writes with RIP after the instruction.
    rip_is_after_out: bool,
}

impl<'a> Symbolizer<'a> {
    pub(crate) fn new(files: &'a Files) -> Self {
        Self { files, names: HashMap::new(), instructions: HashMap::new(), rip_is_after_out: false }
    }

    /// Returns the linear address of the instruction that made the exit.
    pub(crate) fn instruction(&mut self, view: &ExitView<'_>, regs: &kvm_regs, sregs: &kvm_sregs) -> u64 {
        let linear = linear_rip(regs, sregs);
        let key = (linear, ExitKind::from(view.exit));
        if let Some(address) = self.instructions.get(&key) {
            return *address;
        }
        let address = self.find(view, linear, operand_width(sregs)).unwrap_or(linear);
        self.instructions.insert(key, address);
        address
    }

    /// Returns symbol and source line of an address.
    pub(crate) fn locate(&mut self, rip: u64) -> CodeLocation {
        let names = self.names.entry(rip);
        let (symbol, line) =
            names.or_insert_with(|| (self.files.symbol_at(rip), self.files.line_at(rip))).clone();
        CodeLocation { rip, symbol, line }
    }

    /// Returns the address of the instruction; `None` where RIP is the best answer.
    fn find(&mut self, view: &ExitView<'_>, linear: u64, width: OperandWidth) -> Option<u64> {
        // For an MMIO read, RIP is at the instruction, which is not complete. Exits of other kinds belong to no single
        // instruction.
        let can_make: fn(&Instruction) -> bool =
            if matches!(view.exit, Exit::PioIn { .. } | Exit::PioOut { .. }) {
                is_io
            } else if matches!(view.exit, Exit::MmioWrite { .. }) {
                |instruction| instruction.text.contains('[')
            } else if matches!(view.exit, Exit::Hlt) {
                |instruction| instruction.text == "hlt"
            } else {
                return None;
            };
        let code = |at, length| read_code(view.vcpu, view.memory, at, length);
        let here = decode(&code(linear, MAX_INSTRUCTION_LENGTH), width, linear).filter(can_make);
        let before = self.before(linear, width, &code).filter(can_make);
        let is_port_write = matches!(view.exit, Exit::PioOut { .. });
        match (here, before) {
            (Some(here), Some(before)) => {
                let is_after = if is_port_write {
                    self.rip_is_after_out
                } else {
                    !matches!(view.exit, Exit::PioIn { .. })
                };
                Some(if is_after { before.address } else { here.address })
            }
            (Some(here), None) => {
                self.rip_is_after_out &= !is_port_write;
                Some(here.address)
            }
            (None, Some(before)) => {
                self.rip_is_after_out |= is_port_write;
                Some(before.address)
            }
            (None, None) => None,
        }
    }

    /// Returns the instruction that ends at `linear`, decoded from the start of its symbol, or by length if there is
    /// only one candidate.
    fn before(
        &self,
        linear: u64,
        width: OperandWidth,
        code: &dyn Fn(u64, usize) -> Vec<u8>,
    ) -> Option<Instruction> {
        let ends_here = |instruction: &Instruction| instruction.next_address() == linear;
        let last = linear.checked_sub(1)?;
        let start = self.files.code_start(last).filter(|start| linear - start <= MAX_CODE);
        if let Some(start) = start
            && let Ok(length) = usize::try_from(linear - start)
            && let Some(found) = decode_all(&code(start, length), width, start).find(ends_here)
        {
            return Some(found);
        }
        // Outside of the files: OUT and HLT are short, and few other instructions end with the same bytes.
        [1, 2, 3].into_iter().find_map(|length| {
            let at = linear.checked_sub(length)?;
            let bytes = code(at, usize::try_from(length).ok()?);
            decode(&bytes, width, at).filter(|i| ends_here(i) && (is_io(i) || i.text == "hlt"))
        })
    }
}

/// Returns true for IN, OUT and their string forms, with or without REP.
fn is_io(instruction: &Instruction) -> bool {
    let mut words = instruction.text.split(' ').filter(|word| !word.starts_with("rep"));
    words.next().is_some_and(|word| {
        matches!(word, "in" | "out" | "insb" | "insw" | "insd" | "outsb" | "outsw" | "outsd")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn input_and_output_are_known_in_all_forms() {
        for bytes in [&[0xee][..], &[0xe6, 0xe9], &[0x66, 0xef], &[0xf3, 0x6e], &[0x6d], &[0xec]] {
            assert!(is_io(&decode(bytes, OperandWidth::Bits32, 0).unwrap()), "{bytes:x?}");
        }
        for bytes in [&[0xf4][..], &[0x90], &[0xf3, 0xa4]] {
            assert!(!is_io(&decode(bytes, OperandWidth::Bits32, 0).unwrap()), "{bytes:x?}");
        }
    }
}
