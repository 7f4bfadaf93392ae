//! A checkpoint: a stopped machine as a value, to go on from later.
//!
//! It holds the vCPU's whole state, the memory as far as it is not zero, the devices' registers that count for the guest's
//! memory, and the counts of exits. It is restored into a machine that was just built from the same description: one
//! that has run may hold translations of page tables that are about to change under it.
//!
//! The kernel must not hold half an instruction back when one is taken ([`Vcpu::complete`](kvm_sys_wrap::Vcpu::complete)).

use std::collections::BTreeMap;

use kvm_sys_wrap::{Gpa, GuestMemory, VcpuState};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

use crate::cpu::exit_counts::ExitCounts;
use crate::machine::Machine;
use crate::machine::error::Error;

const PAGE: usize = 4096;

/// A machine, stopped between two instructions.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    vcpu: VcpuState,
    /// Pages that are not zero, by address.
    pages: BTreeMap<u64, Box<[u8]>>,
    ports: Vec<Vec<u8>>,
    mmio: Vec<Vec<u8>>,
    exits: ExitCounts,
}

impl Checkpoint {
    /// The vCPU's state.
    #[must_use]
    pub const fn vcpu(&self) -> &VcpuState {
        &self.vcpu
    }

    /// Bytes of memory that it holds.
    #[must_use]
    pub fn size(&self) -> usize {
        self.pages.len().saturating_mul(PAGE)
    }
}

impl Machine {
    /// Takes a checkpoint.
    ///
    /// # Errors
    /// [`Error::Kvm`] where the vCPU's state cannot be read.
    pub fn checkpoint(&self) -> Result<Checkpoint, Error> {
        Ok(Checkpoint {
            vcpu: self.processors.bsp().vcpu.save()?,
            pages: pages(&self.board.memory),
            ports: self.board.ports.save(),
            mmio: self.board.mmio.save(),
            exits: self.processors.bsp().exits.clone(),
        })
    }

    /// Puts a machine that was just built, and did not run yet, where the checkpoint was taken.
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
        self.processors.bsp().vcpu.restore(&checkpoint.vcpu)?;
        self.board.ports.restore(&checkpoint.ports)?;
        self.board.mmio.restore(&checkpoint.mmio)?;
        self.processors.bsp_mut().exits = checkpoint.exits.clone();
        Ok(())
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
