//! A guest at an instruction boundary: registers and memory as plain data.
//!
//! All reasoning about a stopped guest (autopsy, debugger) reads a [`GuestState`]. It makes no KVM call, so it works on a
//! replayed machine, on the registers that a host kept after a shutdown, and on made-up ones in tests.

use kvm_sys_wrap::Vcpu;

use crate::cpu::cpu_state::CpuState;
use crate::machine::Machine;
use crate::machine::host::CpuTraits;
use crate::paging::walk::{ReadMemory, Walker};

/// Physical address bits that KVM assumes for a guest whose CPUID does not say.
const DEFAULT_PHYSICAL_BITS: u32 = 36;

/// Registers and memory of a guest at an instruction boundary.
#[derive(Clone, Copy)]
pub struct GuestState<'a> {
    /// Registers of a vCPU of the guest.
    pub registers: &'a CpuState,
    /// Memory of the guest, by guest-physical address.
    pub memory: &'a dyn ReadMemory,
    /// Width of a physical address in bits; the bits above are reserved in page table entries.
    pub physical_bits: u32,
    /// True for an AMD CPU, which reserves bit 8 in PML5 and PML4 entries.
    pub amd: bool,
}

impl CpuState {
    /// Reads the registers of a stopped vCPU (`KVM_GET_REGS`, `KVM_GET_SREGS`).
    ///
    /// # Errors
    /// [`kvm_sys_wrap::Error::Call`] where the host fails.
    pub fn from_vcpu(vcpu: &Vcpu) -> Result<Self, kvm_sys_wrap::Error> {
        Ok(Self { regs: vcpu.regs()?, sregs: vcpu.sregs()? })
    }
}

impl<'a> GuestState<'a> {
    /// Returns the state of a guest without CPUID.
    #[must_use]
    pub const fn new(registers: &'a CpuState, memory: &'a dyn ReadMemory) -> Self {
        Self { registers, memory, physical_bits: DEFAULT_PHYSICAL_BITS, amd: false }
    }

    /// Returns the state of a machine's guest with the given registers, which may be those of another time.
    #[must_use]
    pub fn from_machine(machine: &'a Machine, registers: &'a CpuState) -> Self {
        let CpuTraits { physical_bits, amd } = machine.board.cpu;
        Self { registers, memory: &machine.board.memory, physical_bits, amd }
    }

    /// Returns a page walker for the registers of the state.
    #[must_use]
    pub fn walker(&self) -> Walker {
        Walker {
            physical_bits: self.physical_bits,
            amd: self.amd,
            ..Walker::from_sregs(&self.registers.sregs)
        }
    }
}
