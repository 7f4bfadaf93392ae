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

/// Registers and memory.
#[derive(Clone, Copy)]
pub struct GuestState<'a> {
    /// The registers.
    pub registers: &'a CpuState,
    /// Guest-physical memory.
    pub memory: &'a dyn ReadMemory,
    /// How many bits a physical address has; the bits above are reserved in page table entries.
    pub physical_bits: u32,
    /// An AMD CPU, which reserves one bit more.
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
    /// Registers and memory of a guest without CPUID.
    #[must_use]
    pub const fn new(registers: &'a CpuState, memory: &'a dyn ReadMemory) -> Self {
        Self { registers, memory, physical_bits: DEFAULT_PHYSICAL_BITS, amd: false }
    }

    /// The registers of a machine's vCPU, now or at another time, with its memory.
    #[must_use]
    pub fn from_machine(machine: &'a Machine, registers: &'a CpuState) -> Self {
        let CpuTraits { physical_bits, amd } = machine.board.cpu;
        Self { registers, memory: &machine.board.memory, physical_bits, amd }
    }

    /// The walker of this moment.
    #[must_use]
    pub fn walker(&self) -> Walker {
        Walker {
            physical_bits: self.physical_bits,
            amd: self.amd,
            ..Walker::from_sregs(&self.registers.sregs)
        }
    }
}
