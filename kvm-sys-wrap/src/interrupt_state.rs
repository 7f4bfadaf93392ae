//! Save and restore of interrupt controllers, timer and clock (`KVM_GET_IRQCHIP`, `KVM_GET_PIT2`, `KVM_GET_LAPIC`,
//! `KVM_GET_CLOCK` and the matching `SET` calls).
//!
//! Restore it after the vCPUs' registers ([`crate::VcpuState`]): first each vCPU's local APIC, then what the vCPUs share,
//! because an asserted input of the IOAPIC is delivered to a local APIC again.

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_clock_data};

use crate::call::Call;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};
use crate::saved_state::{IrqchipState, LapicState};

impl Vm {
    /// Saves PICs, IOAPIC and 8254 timer (`KVM_GET_IRQCHIP`, api.rst 4.26; `KVM_GET_PIT2`, 4.72). The VM must have all of them.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn save_irqchip(&self) -> Result<IrqchipState> {
        let chips = [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_IRQCHIP_IOAPIC];
        let chips = chips.into_iter().map(|chip| self.irqchip(chip)).collect::<Result<_>>()?;
        let pit = self
            .dispatcher()
            .call(Call::GetPit2, format_args!(""), || self.fd()?.get_pit2())
            .map_err(call_failed(Call::GetPit2, "the 8254 timer"))?;
        Ok(IrqchipState { chips, pit })
    }

    /// Restores PICs, IOAPIC and 8254 timer (`KVM_SET_IRQCHIP`, api.rst 4.27; `KVM_SET_PIT2`, 4.73).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn restore_irqchip(&self, state: &IrqchipState) -> Result<()> {
        for chip in &state.chips {
            self.set_irqchip(chip, format_args!("chip {}", chip.chip_id))?;
        }
        self.dispatcher()
            .call(Call::SetPit2, format_args!(""), || self.fd()?.set_pit2(&state.pit))
            .map_err(call_failed(Call::SetPit2, "the 8254 timer"))
    }

    /// Returns the paravirtual clock of the VM in nanoseconds (`KVM_GET_CLOCK`, api.rst 4.29).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn clock(&self) -> Result<u64> {
        self.dispatcher()
            .call(Call::GetClock, format_args!(""), || self.fd()?.get_clock())
            .map(|clock| clock.clock)
            .map_err(call_failed(Call::GetClock, "the guest's clock"))
    }

    /// Sets the paravirtual clock of the VM, which continues from there (`KVM_SET_CLOCK`, api.rst 4.30).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_clock(&self, nanoseconds: u64) -> Result<()> {
        let clock = kvm_clock_data { clock: nanoseconds, ..Default::default() };
        self.dispatcher()
            .call(Call::SetClock, format_args!("{nanoseconds} ns"), || self.fd()?.set_clock(&clock))
            .map_err(call_failed(Call::SetClock, "the guest's clock"))
    }
}

impl Vcpu {
    /// Saves the local APIC and the multiprocessing state (`KVM_GET_MP_STATE`, api.rst 4.38; `KVM_GET_LAPIC`, 4.57).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call), EINVAL on a VM without local APICs.
    pub fn save_lapic(&self) -> Result<LapicState> {
        let mp_state = self
            .dispatcher()
            .call(Call::GetMpState, format_args!(""), || self.flush_sync_regs()?.get_mp_state())
            .map_err(call_failed(Call::GetMpState, format!("vCPU {}", self.id())))?;
        Ok(LapicState { lapic: self.lapic()?, mp_state })
    }

    /// Restores the local APIC and the multiprocessing state (`KVM_SET_LAPIC`, api.rst 4.58; `KVM_SET_MP_STATE`, 4.39). Restore
    /// the registers before: IA32_APIC_BASE enables the APIC.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn restore_lapic(&self, state: &LapicState) -> Result<()> {
        let failed = |call| call_failed(call, format!("vCPU {}", self.id()));
        self.dispatcher()
            .call(Call::SetLapic, format_args!(""), || self.flush_sync_regs()?.set_lapic(&state.lapic))
            .map_err(failed(Call::SetLapic))?;
        self.dispatcher()
            .call(Call::SetMpState, format_args!("{}", state.mp_state.mp_state), || {
                self.flush_sync_regs()?.set_mp_state(state.mp_state)
            })
            .map_err(failed(Call::SetMpState))
    }
}
