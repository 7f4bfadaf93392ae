//! Where the next instruction may be, worked out from the present one: for hosts that cannot single-step.
//!
//! A breakpoint on each of these addresses stops the guest after one instruction. Branches whose condition is not
//! looked at have two; those that go through a register or memory are computed from its value.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};
use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use super::{linear_pc, memory};
use crate::Gva;
use crate::error::Error;
use crate::machine::Machine;

/// The longest instruction (SDM vol. 2, 2.3.11).
const LONGEST: usize = 15;

/// All places where the guest can be after the next instruction, but for exceptions; none where that cannot be known.
pub(super) fn successors(machine: &Machine) -> Result<Vec<Gva>, Error> {
    let (regs, sregs) = (machine.vcpu.regs()?, machine.vcpu.sregs()?);
    let pc = linear_pc(machine)?;
    let mut code = [0; LONGEST];
    let length = memory::read(machine, Gva(pc), &mut code)?;
    let bits = match (sregs.cs.l, sregs.cs.db) {
        (0, 0) => 16,
        (0, _) => 32,
        (_, _) => 64,
    };
    let code = code.get(..length).unwrap_or_default();
    let instruction = Decoder::with_ip(bits, code, regs.rip, DecoderOptions::NONE).decode();
    let base = pc.wrapping_sub(regs.rip);
    let linear = |rip: u64| Gva(base.wrapping_add(rip));
    let beyond = linear(instruction.next_ip());
    let target = || linear(instruction.near_branch_target());
    let places = match instruction.flow_control() {
        FlowControl::Next => vec![beyond],
        // A branch to itself is done when it falls through.
        FlowControl::ConditionalBranch if target().0 == pc => vec![beyond],
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => vec![beyond, target()],
        FlowControl::UnconditionalBranch | FlowControl::Call => vec![target()],
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            indirect(machine, &instruction, &regs, &sregs)?.map(linear).into_iter().collect()
        }
        FlowControl::Return => {
            let top = sregs.ss.base.wrapping_add(regs.rsp);
            number(machine, top, bits / 8)?.map(linear).into_iter().collect()
        }
        FlowControl::Interrupt | FlowControl::Exception => Vec::new(),
    };
    Ok(places)
}

/// The value that an indirect branch jumps to.
fn indirect(
    machine: &Machine,
    instruction: &Instruction,
    regs: &kvm_regs,
    sregs: &kvm_sregs,
) -> Result<Option<u64>, Error> {
    let value = |register: Register| value(register, regs, sregs);
    if instruction.op0_kind() == OpKind::Register {
        return Ok(value(instruction.op0_register()));
    }
    let address = instruction.virtual_address(0, 0, |register, _, _| value(register));
    let size = u32::try_from(instruction.memory_size().size()).unwrap_or(8);
    address.map_or(Ok(None), |address| number(machine, address, size))
}

/// A number of up to 8 bytes in memory.
fn number(machine: &Machine, address: u64, size: u32) -> Result<Option<u64>, Error> {
    let mut bytes = [0; 8];
    let Some(wanted) = usize::try_from(size).ok().and_then(|size| bytes.get_mut(..size)) else {
        return Ok(None);
    };
    let length = wanted.len();
    let read = memory::read(machine, Gva(address), wanted)?;
    Ok((read == length).then(|| u64::from_le_bytes(bytes)))
}

/// The value of a register in an address: general ones by their width, segments by their base.
#[expect(clippy::wildcard_enum_match_arm, reason = "iced's enum has every register of every extension")]
fn value(register: Register, regs: &kvm_regs, sregs: &kvm_sregs) -> Option<u64> {
    let full = match register.full_register() {
        Register::RAX => regs.rax,
        Register::RBX => regs.rbx,
        Register::RCX => regs.rcx,
        Register::RDX => regs.rdx,
        Register::RSI => regs.rsi,
        Register::RDI => regs.rdi,
        Register::RBP => regs.rbp,
        Register::RSP => regs.rsp,
        Register::R8 => regs.r8,
        Register::R9 => regs.r9,
        Register::R10 => regs.r10,
        Register::R11 => regs.r11,
        Register::R12 => regs.r12,
        Register::R13 => regs.r13,
        Register::R14 => regs.r14,
        Register::R15 => regs.r15,
        Register::FS => sregs.fs.base,
        Register::GS => sregs.gs.base,
        // In 64-bit code the other bases count as 0.
        Register::CS | Register::DS | Register::ES | Register::SS if sregs.cs.l != 0 => 0,
        Register::CS => sregs.cs.base,
        Register::DS => sregs.ds.base,
        Register::ES => sregs.es.base,
        Register::SS => sregs.ss.base,
        _ => return None,
    };
    Some(match register.size() {
        2 if !register.is_segment_register() => full & 0xffff,
        4 => full & 0xffff_ffff,
        _ => full,
    })
}
