//! Checkpoints: a stopped machine as a value in this process, to go on from later.
//!
//! It differs from a snapshot ([`crate::snapshot`]) in its memory: the pages that are not zero, in place of a file that
//! machines map. The state of vCPUs and devices is the same [`MachineState`], restored in the same order. It is restored into
//! a machine that was just built from the same description: one that has run may hold translations of page tables that are
//! about to change under it.
//!
//! The kernel must not hold half an instruction back when one is taken
//! ([`Vcpu::finish_instruction`](kvm_sys_wrap::Vcpu::finish_instruction)).

use std::collections::BTreeMap;

use kvm_sys_wrap::bindings::kvm_regs;
use kvm_sys_wrap::{Gpa, GuestMemory};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use crate::machine::Machine;
use crate::machine::error::Error;
use crate::machine::state::MachineState;

const PAGE: usize = 4096;

/// State and memory of a machine that is stopped between two instructions, to go back to within its run.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    state: MachineState,
    /// Pages that are not zero, by address.
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Checkpoint {
    /// Returns the general registers of the first vCPU.
    #[must_use]
    pub fn regs(&self) -> Option<&kvm_regs> {
        self.state.vcpus().next().map(|vcpu| &vcpu.regs)
    }

    /// Returns the number of bytes of memory that the checkpoint holds.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pages.len().saturating_mul(PAGE)
    }
}

impl Machine {
    /// Takes a checkpoint of the machine in its present state.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the state cannot be read.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        Ok(Checkpoint { state: MachineState::from_machine(self, None)?, pages: pages(&self.board.memory) })
    }

    /// Restores a checkpoint into a machine that was just built and did not run yet.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the vCPU's state cannot be written, [`Error::Image`] where the memory is another one.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), Error> {
        // Memory first: KVM reads the PAE root when CR3 is set.
        for at in page_addresses(&self.board.memory) {
            let wanted = checkpoint.pages.get(&at).map_or(ZEROS.as_slice(), |page| page);
            let mut found = [0; PAGE];
            self.board
                .memory
                .read_slice(&mut found, Gpa(at).into())
                .map_err(|error| Error::Image(error.into()))?;
            if found != *wanted {
                self.board
                    .memory
                    .write_slice(wanted, Gpa(at).into())
                    .map_err(|error| Error::Image(error.into()))?;
            }
        }
        checkpoint.state.restore(self, false)
    }
}

const ZEROS: [u8; PAGE] = [0; PAGE];

/// The pages that are not zero.
fn pages(memory: &GuestMemory) -> BTreeMap<u64, Box<[u8]>> {
    let mut buffer = [0; PAGE];
    page_addresses(memory)
        .filter_map(|at| {
            memory.read_slice(&mut buffer, Gpa(at).into()).ok()?;
            (buffer != ZEROS).then(|| (at, Box::from(buffer.as_slice())))
        })
        .collect()
}

/// The first address of each page; slots consist of whole pages.
fn page_addresses(memory: &GuestMemory) -> impl Iterator<Item = u64> {
    memory.iter().flat_map(|region| (region.start_addr().0..=region.last_addr().0).step_by(PAGE))
}
