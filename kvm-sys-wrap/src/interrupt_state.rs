//! The state of interrupt controllers, timer and clock as values: read them, and write them back later.
//!
//! A machine with interrupts keeps this in the kernel, beside its vCPUs' registers ([`crate::VcpuState`]). It is written after
//! them, first each vCPU's APIC, then what the vCPUs share: an input of the IOAPIC that is up at that moment goes to an APIC
//! again. The clock is the one that paravirtualized guests read; it goes on from where it was.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data, kvm_irqchip,
    kvm_lapic_state, kvm_mp_state, kvm_pit_state2,
};
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};

/// These structures are saved as their bytes. Another size is another saved form: `vmm_core::snapshot::STATE_VERSION` has to be
/// raised with it.
const _: () = {
    assert!(size_of::<kvm_irqchip>() == 520);
    assert!(size_of::<kvm_pit_state2>() == 112);
    assert!(size_of::<kvm_lapic_state>() == 1024);
    assert!(size_of::<kvm_mp_state>() == 4);
};

/// The two PICs, the IOAPIC and the 8254 timer.
#[derive(Clone, Serialize, Deserialize)]
pub struct IrqchipState {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

/// A vCPU's local APIC, and whether the vCPU runs or waits.
#[derive(Clone, Serialize, Deserialize)]
pub struct LapicState {
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
}

impl std::fmt::Debug for IrqchipState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControllerState").field("pit", &self.pit).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for LapicState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApicState").field("mp_state", &self.mp_state).finish_non_exhaustive()
    }
}

impl Vm {
    /// Reads PICs, IOAPIC and timer of a VM that has all of them.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn save_irqchip(&self) -> Result<IrqchipState> {
        let chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        let chips = chips.into_iter().map(|chip| self.irqchip(chip)).collect::<Result<_>>()?;
        let pit = self
            .observed()
            .call(Call::GetPit2, format_args!(""), || self.fd().get_pit2())
            .map_err(call_failed(Call::GetPit2, "the 8254 timer"))?;
        Ok(IrqchipState { chips, pit })
    }

    /// Writes them.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn restore_irqchip(&self, state: &IrqchipState) -> Result<()> {
        for chip in &state.chips {
            self.set_irqchip(chip, format_args!("chip {}", chip.chip_id))?;
        }
        self.observed()
            .call(Call::SetPit2, format_args!(""), || self.fd().set_pit2(&state.pit))
            .map_err(call_failed(Call::SetPit2, "the 8254 timer"))
    }

    /// The clock that guests share with KVM, in nanoseconds.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn clock(&self) -> Result<u64> {
        self.observed()
            .call(Call::GetClock, format_args!(""), || self.fd().get_clock())
            .map(|clock| clock.clock)
            .map_err(call_failed(Call::GetClock, "the guest's clock"))
    }

    /// Sets it.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_clock(&self, nanoseconds: u64) -> Result<()> {
        let clock = kvm_clock_data { clock: nanoseconds, ..Default::default() };
        self.observed()
            .call(Call::SetClock, format_args!("{nanoseconds} ns"), || self.fd().set_clock(&clock))
            .map_err(call_failed(Call::SetClock, "the guest's clock"))
    }
}

impl Vcpu {
    /// Reads the local APIC, and whether the vCPU runs or waits.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), on a VM without local APICs too.
    pub fn save_lapic(&self) -> Result<LapicState> {
        let mp_state = self
            .observed()
            .call(Call::GetMpState, format_args!(""), || self.flush_sync_regs()?.get_mp_state())
            .map_err(call_failed(Call::GetMpState, format!("vCPU {}", self.id())))?;
        Ok(LapicState { lapic: self.lapic()?, mp_state })
    }

    /// Writes both. The registers come before: they say whether the APIC is on.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn restore_lapic(&self, state: &LapicState) -> Result<()> {
        let failed = |call| call_failed(call, format!("vCPU {}", self.id()));
        self.observed()
            .call(Call::SetLapic, format_args!(""), || self.flush_sync_regs()?.set_lapic(&state.lapic))
            .map_err(failed(Call::SetLapic))?;
        self.observed()
            .call(Call::SetMpState, format_args!("{}", state.mp_state.mp_state), || {
                self.flush_sync_regs()?.set_mp_state(state.mp_state)
            })
            .map_err(failed(Call::SetMpState))
    }
}
