//! Reset of a machine to the snapshot that it was made from, without building it again.
//!
//! Its memory is a copy-on-write mapping of the snapshot's: the pages that were written are dropped
//! ([`Vm::reset_cow_pages`]). Translations that a CPU caches and shadow page tables may be derived from those pages, so they are
//! invalidated.
//!
//! [`Vm::reset_cow_pages`]: kvm_sys_wrap::Vm::reset_cow_pages

use kvm_sys_wrap::VcpuState;
use kvm_sys_wrap::bindings::kvm_sregs;

use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::suspend::SuspendTimes;
use crate::snapshot::Snapshot;

/// Bit that makes a CR3 another one. KVM flushes cached translations when CR3 changes, and not when a table in memory changes:
/// there the guest has to execute INVLPG, which a reset does not.
const OTHER_TABLE: u64 = 0x1000;

impl Machine {
    /// Resets the machine and its devices to the snapshot that it was made from. Output that was printed and input that was read
    /// are not undone. Returns the bytes of memory that were taken back.
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the machine was not made from one, [`Error::Kvm`].
    pub fn reset(&mut self) -> Result<u64, Error> {
        let problem = "the machine was not made from one";
        let Some(origin) = self.origin.clone() else { return Err(Error::Snapshot { problem, source: None }) };
        self.reset_to(&origin)
    }

    /// Resets the machine to a snapshot that has the same origin as its own, such as one with other registers
    /// ([`Snapshot::with_registers`]).
    ///
    /// # Errors
    /// As [`Machine::reset`]; [`Error::Snapshot`] where the origin is another one.
    pub fn reset_to(&mut self, snapshot: &Snapshot) -> Result<u64, Error> {
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
        if bytes > 0 && self.shadow_pages.invalidate(vm, &self.board.spec)? {
            for (processor, VcpuState { sregs, .. }) in self.processors.iter().zip(snapshot.state.vcpus()) {
                processor.vcpu.set_sregs(&kvm_sregs { cr3: sregs.cr3 ^ OTHER_TABLE, ..*sregs })?;
            }
        }
        (self.stopped_vcpu, self.suspend_times) = (0, SuspendTimes::default());
        snapshot.state.restore(self, true)?;
        Ok(bytes)
    }
}
