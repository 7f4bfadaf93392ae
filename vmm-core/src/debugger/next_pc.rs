//! Addresses that the next instruction can lead to: for hosts that cannot single-step.
//!
//! A breakpoint on each of these addresses stops the guest after one instruction. Conditional branches have two, since the
//! condition is not evaluated; targets in a register or in memory are read.

use iced_x86::{FlowControl, Instruction, OpKind, Register};
use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};

use super::linear_memory::LinearMemory;
use crate::Gva;
use crate::cpu::cpu_state::CpuState;
use crate::cpu::cpu_state::OperandWidth;
use crate::machine::Machine;
use crate::machine::error::Error;

/// Addresses at which the guest can be after the next instruction, without exceptions; none where they are not known.
pub(super) fn next_pcs(machine: &Machine) -> Result<Vec<Gva>, Error> {
    let registers = CpuState::from_vcpu(machine.vcpu())?;
    let memory = LinearMemory::with_registers(machine, &registers);
    let instruction = memory.next_instruction(&registers);
    let pc = registers.linear_rip();
    let regs = registers.regs;
    let base = pc.wrapping_sub(regs.rip);
    let linear = |rip: u64| Gva(base.wrapping_add(rip));
    let beyond = linear(instruction.next_ip());
    let target = || linear(instruction.near_branch_target());
    let is_near =
        matches!(instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    let places = match instruction.flow_control() {
        FlowControl::Next => vec![beyond],
        // A branch to itself is done when it falls through.
        FlowControl::ConditionalBranch if target().0 == pc => vec![beyond],
        FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => vec![beyond, target()],
        FlowControl::UnconditionalBranch | FlowControl::Call if is_near => vec![target()],
        FlowControl::IndirectBranch | FlowControl::IndirectCall => {
            indirect(&memory, &instruction, &registers).map(linear).into_iter().collect()
        }
        FlowControl::Return => {
            let size = match registers.width() {
                OperandWidth::Bits16 => 2,
                OperandWidth::Bits32 => 4,
                OperandWidth::Bits64 => 8,
            };
            memory.number(Gva(registers.linear_stack()), size).map(linear).into_iter().collect()
        }
        // Far branches and SYSCALL lead to another segment.
        FlowControl::UnconditionalBranch
        | FlowControl::Call
        | FlowControl::Interrupt
        | FlowControl::Exception => Vec::new(),
    };
    Ok(places)
}

/// Target of an indirect branch.
fn indirect(memory: &LinearMemory<'_>, instruction: &Instruction, registers: &CpuState) -> Option<u64> {
    let value = |register: Register| value(register, &registers.regs, &registers.sregs);
    if instruction.op0_kind() == OpKind::Register {
        return value(instruction.op0_register());
    }
    let address = instruction.virtual_address(0, 0, |register, _, _| value(register))?;
    memory.number(Gva(address), instruction.memory_size().size())
}

/// Value of a register in an address: of general registers by their width, of segment registers the base.
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
