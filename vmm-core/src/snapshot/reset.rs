//! A machine that has run goes back to the snapshot it was made from, without being built again.
//!
//! Its memory is a private copy of the snapshot's: throwing away the pages that were written (`MADV_DONTNEED`) brings the
//! snapshot's back, whoever wrote them, and makes KVM forget how it mapped them. Where KVM has page tables of its own
//! that shadow the guest's, it may still remember what the guest's said: there each slot is taken out and put in again.

use crate::error::Error;
use crate::host;
use crate::machine::Machine;

/// Bytes of memory of which private copies were thrown away.
pub type ResetBy = u64;

impl Machine {
    /// Goes back to the snapshot that the machine was made from, with its devices. What it printed, and input that it has
    /// taken, are gone. Returns the bytes of memory that were looked at.
    ///
    /// # Errors
    /// [`Error::Snapshot`] where the machine was not made from one, [`Error::Kvm`].
    pub fn reset(&mut self) -> Result<ResetBy, Error> {
        let problem = "the machine was not made from one";
        let Some(origin) = self.origin.clone() else { return Err(Error::Snapshot { problem, source: None }) };
        for processor in std::iter::once(&mut self.boot).chain(&mut self.others) {
            // Half an instruction that the kernel holds back would be finished in the new state.
            processor.vcpu.complete()?;
            processor.unknown_msrs.clear();
        }
        let vm = self.boot.vcpu.vm();
        let mut bytes = 0_u64;
        for (number, region) in (0..).zip(&self.board.spec.memory) {
            vm.discard(number, 0..region.size)?;
            if host::is_pvm() {
                vm.renew_slot(number)?;
            }
            bytes = bytes.saturating_add(region.size);
        }
        self.ended = 0;
        origin.state.put_back(self)?;
        Ok(bytes)
    }
}
