//! A machine that has run goes back to the snapshot it was made from, without being built again.
//!
//! Its memory is a private copy of the snapshot's: the pages that were written are taken back ([`Vm::revert`]). What was
//! derived from page tables in them has to go too: translations that a CPU keeps, and tables that shadow the guest's.
//!
//! [`Vm::revert`]: kvm_sys_wrap::Vm::revert

use kvm_sys_wrap::VcpuState;
use kvm_sys_wrap::bindings::kvm_sregs;

use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::suspend::SuspendTimes;
use crate::snapshot::Snapshot;

/// Bytes of memory that had been written, as whole pages.
pub type ResetBy = u64;

/// Makes a CR3 another one. KVM flushes what a CPU keeps of translations where CR3 changes, and not where a table in memory
/// does: there the guest has to say so (INVLPG), and a reset is none of its doing.
const OTHER_TABLE: u64 = 0x1000;

impl Machine {
    /// Goes back to the snapshot that the machine was made from, with its devices. What it printed, and input that it has
    /// taken, are gone. Returns the bytes of memory that were taken back.
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the machine was not made from one, [`Error::Kvm`].
    pub fn reset(&mut self) -> Result<ResetBy, Error> {
        let problem = "the machine was not made from one";
        let Some(origin) = self.origin.clone() else { return Err(Error::Snapshot { problem, source: None }) };
        self.reset_to(&origin)
    }

    /// The same to another snapshot of the same moment: one with other registers ([`Snapshot::with_registers`]).
    ///
    /// # Errors
    /// As [`Machine::reset`]; [`Error::Snapshot`] where it is of another moment.
    pub fn reset_to(&mut self, snapshot: &Snapshot) -> Result<ResetBy, Error> {
        if !self.origin.as_ref().is_some_and(|origin| origin.shares_origin(snapshot)) {
            let problem = "the machine was made from another one";
            return Err(Error::Snapshot { problem, source: None });
        }
        for processor in self.processors.iter_mut() {
            processor.discard_instruction(&self.board)?;
            processor.unknown_msrs.clear();
        }
        let vm = self.processors.bsp().vcpu.vm();
        let mut bytes = 0_u64;
        for (number, _) in (0..).zip(&self.board.spec.memory) {
            bytes = bytes.saturating_add(vm.reset_cow_pages(number)?);
        }
        if bytes > 0 && self.shadows.forget(vm, &self.board.spec)? {
            for (processor, VcpuState { sregs, .. }) in self.processors.iter().zip(snapshot.state.vcpus()) {
                processor.vcpu.set_sregs(&kvm_sregs { cr3: sregs.cr3 ^ OTHER_TABLE, ..*sregs })?;
            }
        }
        (self.ended, self.sleeps) = (0, SuspendTimes::default());
        snapshot.state.restore(self, true)?;
        Ok(bytes)
    }
}
