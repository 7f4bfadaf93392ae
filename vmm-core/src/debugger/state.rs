//! Comparison of the states of two machines: registers and memory.

use kvm_sys_wrap::bindings::{kvm_regs, kvm_sregs};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use crate::machine::Machine;
use crate::machine::error::Error;

/// State of a machine that another one is compared with.
pub(super) struct ComparedState<'a> {
    regs: kvm_regs,
    sregs: kvm_sregs,
    machine: &'a Machine,
}

/// RFLAGS.TF and RF, which debugging itself sets (SDM vol. 3, 17.3.1).
const DEBUG_FLAGS: u64 = 1 << 8 | 1 << 16;
/// The accessed and dirty bits of a page table entry, which a CPU may set earlier than it must (SDM vol. 3, 4.8).
const ACCESSED_AND_DIRTY: u8 = 0x60;

impl<'a> ComparedState<'a> {
    pub(super) fn new(machine: &'a Machine) -> Result<Self, Error> {
        Ok(Self {
            regs: machine.processors.bsp().vcpu.regs()?,
            sregs: machine.processors.bsp().vcpu.sregs()?,
            machine,
        })
    }

    pub(super) fn matches(&self, other: &Machine) -> Result<bool, Error> {
        let regs = other.processors.bsp().vcpu.regs()?;
        if regs.rip != self.regs.rip
            || (kvm_regs { rflags: regs.rflags | DEBUG_FLAGS, ..regs })
                != (kvm_regs { rflags: self.regs.rflags | DEBUG_FLAGS, ..self.regs })
        {
            return Ok(false);
        }
        let sregs = other.processors.bsp().vcpu.sregs()?;
        let compared =
            |s: &kvm_sregs| (s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.cs.base, s.cs.selector, s.ss.selector);
        Ok(compared(&sregs) == compared(&self.sregs) && same_memory(self.machine, other))
    }
}

/// Returns true if two machines of one description have the same memory, apart from accessed and dirty bits.
fn same_memory(one: &Machine, other: &Machine) -> bool {
    const CHUNK: usize = 4096;
    let (mut left, mut right) = ([0_u8; CHUNK], [0_u8; CHUNK]);
    one.board
        .memory
        .iter()
        .flat_map(|region| (region.start_addr().0..=region.last_addr().0).step_by(CHUNK))
        .all(|at| {
            let at = vm_memory::GuestAddress(at);
            let read = one.board.memory.read_slice(&mut left, at).is_ok()
                && other.board.memory.read_slice(&mut right, at).is_ok();
            read && (left == right
                || left
                    .iter()
                    .zip(&right)
                    .enumerate()
                    .all(|(index, (a, b))| a == b || index % 4 == 0 && (a ^ b) & !ACCESSED_AND_DIRTY == 0))
        })
}
