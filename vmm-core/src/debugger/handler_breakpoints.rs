//! Breakpoints at the handlers that a single step may enter, so that the step ends there.
//!
//! KVM steps with the trap flag, and a gate clears that (SDM vol. 3, 6.12.1.3). So on an ordinary host a step over an
//! instruction that faults ends only when the handler has returned, and no breakpoint in the handler is noticed; kvm-pvm
//! executes one instruction of it. Therefore, while the step lasts, the first byte of each handler that the instruction
//! can reach is replaced by a `TrapOpcode`, and the step ends there.
//!
//! These are the handlers of exceptions, and that of the instruction's own `int n`. Handlers of external interrupts get no
//! breakpoint: they run at full speed within the step. Neither do handlers in ring 3, and handlers that overlap the
//! instruction itself.

use std::collections::BTreeSet;

use iced_x86::Mnemonic;

use super::linear_memory::LinearMemory;
use super::trap_flag::StateBeforeStep;
use crate::Gva;
use crate::autopsy::delivery::{DeliveryOutcome, ExceptionHandler};
use crate::autopsy::exception::Exception;
use crate::cpu::cpu_state::CpuState;
use crate::cpu::descriptor::SegmentDescriptor;
use crate::cpu::ring3_trap::pushes_error_code;
use crate::disassembly::MAX_INSTRUCTION_LENGTH;
use crate::machine::Machine;
use crate::machine::guest_state::GuestState;

/// Vectors of exceptions (SDM vol. 3, 6.3.1).
const EXCEPTIONS: std::ops::Range<u8> = 0..32;
/// The C bit in the type of a code segment: it runs in the ring of its caller (SDM vol. 3, 3.4.5.1).
const CONFORMING: u8 = 1 << 2;

/// First instructions of all handlers in ring 0 that the next instruction can lead to.
pub(super) fn handler_breakpoints(
    machine: &Machine,
    memory: &LinearMemory<'_>,
    before: &StateBeforeStep,
) -> Vec<Gva> {
    // Below a guest in ring 3 every vector leads to the trap page, which is HLTs already.
    if machine.board.trap_page.is_some() {
        return Vec::new();
    }
    let StateBeforeStep { registers, instruction } = before;
    let guest = GuestState::from_machine(machine, registers);
    let exceptions =
        EXCEPTIONS.map(|vector| Exception::new(vector, pushes_error_code(vector).then_some(0), ""));
    let own = (instruction.mnemonic() == Mnemonic::Int)
        .then(|| Exception { software: true, ..Exception::new(instruction.immediate8(), None, "") });
    let mut addresses = BTreeSet::new();
    for exception in exceptions.chain(own) {
        let DeliveryOutcome::Handler(handler) = guest.deliver(&exception).outcome else { continue };
        let is_on_instruction =
            handler.linear.wrapping_sub(registers.linear_rip()) < MAX_INSTRUCTION_LENGTH as u64;
        if !is_on_instruction && (registers.cpl() == 0 || is_for_ring_0(memory, registers, handler)) {
            addresses.insert(Gva(handler.linear));
        }
    }
    addresses.into_iter().collect()
}

/// Returns true if a handler for code of another ring runs in ring 0, by its code segment.
fn is_for_ring_0(memory: &LinearMemory<'_>, registers: &CpuState, handler: ExceptionHandler) -> bool {
    // Bit 2 of a selector means the LDT, where nobody keeps such a segment.
    if handler.selector & 4 != 0 {
        return false;
    }
    let at = registers.sregs.gdt.base.wrapping_add(u64::from(handler.selector & 0xfff8));
    let code = memory.number(Gva(at), 8).map(|entry| SegmentDescriptor::from_entry(entry, 0));
    code.is_some_and(|code| code.dpl == 0 && code.kind & CONFORMING == 0)
}
