//! In-kernel interrupt controllers and timer of a PC.
//!
//! `KVM_CREATE_IRQCHIP` creates two 8259 PICs, an IOAPIC with 24 inputs, and a local APIC for each vCPU; `KVM_CREATE_PIT2` adds
//! the 8254 timer on input 0. `KVM_CAP_SPLIT_IRQCHIP` creates the local APICs alone. Call them before the first vCPU is created.
//! From then on HLT does not exit: the vCPU sleeps in the kernel.
//!
//! A device raises an interrupt by the number of an input (a GSI: 0 to 15 go to the PICs and the IOAPIC, 16 to 23 to the
//! IOAPIC). [`Vm::register_irqfd`] connects an eventfd to one: each write is an edge, without an ioctl. [`Vm::set_irq_line`]
//! sets a level.

use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_SPEAKER_DUMMY, kvm_enable_cap, kvm_irqchip, kvm_lapic_state, kvm_pit_config,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::call::Call;
use crate::capability::Capability;
use crate::create_vcpu::Vcpu;
use crate::create_vm::Vm;
use crate::error::{Result, call_failed};
use crate::vm_pool::VmSetup;

/// Inputs of the IOAPIC.
pub(crate) const IOAPIC_PINS: u32 = 24;

/// Eventfd connected to an interrupt input ([`Vm::register_irqfd`]).
#[derive(Debug)]
pub struct Irqfd(EventFd);

impl Irqfd {
    /// Sends an edge to the interrupt input: raises and lowers it.
    ///
    /// # Errors
    /// The error of writing the eventfd.
    pub fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// Multiprocessing state of a vCPU with a local APIC (`KVM_MP_STATE_*`, api.rst 4.38).
///
/// Exhaustive: states that this version does not know are [`MpState::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MpState {
    /// `KVM_MP_STATE_RUNNABLE`: the vCPU executes instructions.
    Runnable,
    /// `KVM_MP_STATE_UNINITIALIZED`: an application processor that has not received INIT.
    Uninitialized,
    /// `KVM_MP_STATE_INIT_RECEIVED`: the vCPU received INIT and waits for SIPI.
    InitReceived,
    /// `KVM_MP_STATE_HALTED`: the vCPU executed HLT and waits for an interrupt.
    Halted,
    /// `KVM_MP_STATE_SIPI_RECEIVED`: the vCPU received SIPI and is about to run.
    SipiReceived,
    /// Multiprocessing state of another architecture, or of a later kernel.
    Other(u32),
}

impl Vm {
    /// Creates PICs, IOAPIC and local APICs (`KVM_CREATE_IRQCHIP`, api.rst 4.24). Those of a VM from the pool
    /// ([`VmReservation`](crate::VmReservation)) are reset instead.
    ///
    /// # Errors
    /// [`Error::MissingCapability`](crate::Error::MissingCapability), [`Error::Call`](crate::Error::Call).
    pub fn create_irqchip(&self) -> Result<()> {
        if !self.add_setup(VmSetup::Irqchip) {
            return self.reset_irqchip();
        }
        self.kvm().require(Capability::Irqchip)?;
        self.dispatcher()
            .call(Call::CreateIrqchip, format_args!(""), || self.fd()?.create_irq_chip())
            .map_err(call_failed(Call::CreateIrqchip, "PICs, IOAPIC and local APICs"))
    }

    /// Creates the 8254 timer, with its speaker port 0x61 in the kernel (`KVM_CREATE_PIT2`, api.rst 4.71).
    ///
    /// # Errors
    /// [`Error::MissingCapability`](crate::Error::MissingCapability), [`Error::Call`](crate::Error::Call).
    pub fn create_pit2(&self) -> Result<()> {
        if !self.add_setup(VmSetup::Pit2) {
            return Ok(());
        }
        self.kvm().require(Capability::Pit2)?;
        let config = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        self.dispatcher()
            .call(Call::CreatePit2, format_args!("KVM_PIT_SPEAKER_DUMMY"), || self.fd()?.create_pit2(config))
            .map_err(call_failed(Call::CreatePit2, "the 8254 timer"))
    }

    /// Creates local APICs alone (`KVM_ENABLE_CAP` with `KVM_CAP_SPLIT_IRQCHIP`, api.rst 7.5).
    ///
    /// # Errors
    /// [`Error::MissingCapability`](crate::Error::MissingCapability), [`Error::Call`](crate::Error::Call).
    pub fn enable_split_irqchip(&self) -> Result<()> {
        if !self.add_setup(VmSetup::SplitIrqchip) {
            return Ok(());
        }
        self.kvm().require(Capability::SplitIrqchip)?;
        let cap = kvm_enable_cap {
            cap: KVM_CAP_SPLIT_IRQCHIP,
            args: [IOAPIC_PINS.into(), 0, 0, 0],
            ..Default::default()
        };
        self.dispatcher()
            .call(Call::EnableCapVm, format_args!("KVM_CAP_SPLIT_IRQCHIP, {IOAPIC_PINS} routes"), || {
                self.fd()?.enable_cap(&cap)
            })
            .map_err(call_failed(Call::EnableCapVm, "local APICs without PIC and IOAPIC"))
    }

    /// Connects a new eventfd to the interrupt input `gsi` (`KVM_IRQFD`, api.rst 4.75).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn register_irqfd(&self, gsi: u32) -> Result<Irqfd> {
        let failed = |source| call_failed(Call::Irqfd, format!("interrupt input {gsi}"))(source);
        let fd = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(failed)?;
        self.dispatcher()
            .call(Call::Irqfd, format_args!("gsi {gsi}"), || self.fd()?.register_irqfd(&fd, gsi))
            .map_err(failed)?;
        Ok(Irqfd(fd))
    }

    /// Sets the level of the interrupt input `gsi` (`KVM_IRQ_LINE`, api.rst 4.25).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn set_irq_line(&self, gsi: u32, level: bool) -> Result<()> {
        self.dispatcher()
            .call(Call::IrqLine, format_args!("gsi {gsi}, level {}", u8::from(level)), || {
                self.fd()?.set_irq_line(gsi, level)
            })
            .map_err(call_failed(Call::IrqLine, format!("interrupt input {gsi}")))
    }

    /// Returns true if any input of the PICs or the IOAPIC is unmasked (`KVM_GET_IRQCHIP`, api.rst 4.26). If none is, no device can
    /// interrupt a vCPU.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn any_irq_unmasked(&self) -> Result<bool> {
        for pic in [KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE] {
            // SAFETY: every member of the union is plain data; this one is valid for the two PICs.
            let state = unsafe { self.irqchip(pic)?.chip.pic };
            // A PIC that was not initialized delivers nothing; both `imr` and the vector base are 0 then.
            let cascade = if pic == KVM_IRQCHIP_PIC_MASTER { 1 << 2 } else { 0 };
            if state.irq_base != 0 && (state.imr | cascade) != 0xff {
                return Ok(true);
            }
        }
        // SAFETY: as above; this member is valid for the IOAPIC.
        let ioapic = unsafe { self.irqchip(KVM_IRQCHIP_IOAPIC)?.chip.ioapic };
        Ok(ioapic.redirtbl.iter().any(|entry| {
            // SAFETY: both members of this union cover the same 64 bits.
            let bits = unsafe { entry.bits };
            bits & IOAPIC_MASKED == 0
        }))
    }

    /// Puts the two PICs into the state after a BIOS (`KVM_SET_IRQCHIP`, api.rst 4.27): initialized, with vectors from `master` and
    /// `slave` on, all inputs unmasked. After reset they deliver nothing until the guest initializes them.
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn init_pics(&self, master: u8, slave: u8) -> Result<()> {
        for (chip_id, base) in [(KVM_IRQCHIP_PIC_MASTER, master), (KVM_IRQCHIP_PIC_SLAVE, slave)] {
            let mut chip = self.irqchip(chip_id)?;
            // Writing a member of a union that is plain data is safe; this one is valid for the two PICs.
            chip.chip.pic.irq_base = base;
            chip.chip.pic.init4 = 1;
            chip.chip.pic.imr = 0;
            self.set_irqchip(&chip, format_args!("chip {chip_id}, vectors from {base:#x}"))?;
        }
        Ok(())
    }

    pub(crate) fn irqchip(&self, chip_id: u32) -> Result<kvm_irqchip> {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        self.dispatcher()
            .call(Call::GetIrqchip, format_args!("chip {chip_id}"), || self.fd()?.get_irqchip(&mut chip))
            .map_err(call_failed(Call::GetIrqchip, format!("chip {chip_id}")))?;
        Ok(chip)
    }

    pub(crate) fn set_irqchip(&self, chip: &kvm_irqchip, arguments: std::fmt::Arguments<'_>) -> Result<()> {
        self.dispatcher()
            .call(Call::SetIrqchip, arguments, || self.fd()?.set_irqchip(chip))
            .map_err(call_failed(Call::SetIrqchip, format!("chip {}", chip.chip_id)))
    }
}

/// Bit 16 of a redirection entry: masked (82093AA, 3.2.4).
const IOAPIC_MASKED: u64 = 1 << 16;

/// Offsets of local APIC registers (SDM vol. 3, table 10-1).
const ISR: usize = 0x100;
const IRR: usize = 0x200;
const LVT_TIMER: usize = 0x320;
const TIMER_INITIAL_COUNT: usize = 0x380;
const TIMER_CURRENT_COUNT: usize = 0x390;
/// Bit 16 of a local vector table entry: masked.
const LVT_MASKED: u32 = 1 << 16;
/// Bits 17 and 18 of the timer's entry: one-shot, periodic, TSC deadline.
const TIMER_MODE: u32 = 0b11 << 17;
const TIMER_PERIODIC: u32 = 0b01 << 17;
const TIMER_TSC_DEADLINE: u32 = 0b10 << 17;
/// IA32_TSC_DEADLINE (SDM vol. 3, 10.5.4.1).
const IA32_TSC_DEADLINE: u32 = 0x6e0;

impl Vcpu {
    /// Returns the multiprocessing state (`KVM_GET_MP_STATE`, api.rst 4.38). Without a local APIC it is always
    /// [`MpState::Runnable`].
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn mp_state(&self) -> Result<MpState> {
        let state = self
            .dispatcher()
            .call(Call::GetMpState, format_args!(""), || self.flush_sync_regs()?.get_mp_state())
            .map_err(call_failed(Call::GetMpState, format!("vCPU {}", self.id())))?;
        Ok(match state.mp_state {
            kvm_bindings::KVM_MP_STATE_RUNNABLE => MpState::Runnable,
            kvm_bindings::KVM_MP_STATE_UNINITIALIZED => MpState::Uninitialized,
            kvm_bindings::KVM_MP_STATE_INIT_RECEIVED => MpState::InitReceived,
            kvm_bindings::KVM_MP_STATE_HALTED => MpState::Halted,
            kvm_bindings::KVM_MP_STATE_SIPI_RECEIVED => MpState::SipiReceived,
            other => MpState::Other(other),
        })
    }

    /// Returns true if the timer of the local APIC is armed and unmasked (`KVM_GET_LAPIC`, api.rst 4.57; for the TSC-deadline mode
    /// `KVM_GET_MSRS`).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn apic_timer_armed(&self) -> Result<bool> {
        let lapic = self.lapic()?;
        let register = |offset| register(&lapic, offset);
        let lvt = register(LVT_TIMER);
        if lvt & LVT_MASKED != 0 {
            return Ok(false);
        }
        Ok(match lvt & TIMER_MODE {
            // The MSR reads as 0 once the deadline has passed.
            TIMER_TSC_DEADLINE => self.msrs(&[IA32_TSC_DEADLINE])?.iter().any(|msr| msr.data != 0),
            TIMER_PERIODIC => register(TIMER_INITIAL_COUNT) != 0,
            _ => register(TIMER_CURRENT_COUNT) != 0,
        })
    }

    /// Returns the highest vector in service (ISR), or if there is none the highest one requested (IRR), of the local APIC
    /// (`KVM_GET_LAPIC`, api.rst 4.57).
    ///
    /// # Errors
    /// [`Error::Call`](crate::Error::Call).
    pub fn interrupt_in_service(&self) -> Result<Option<u8>> {
        let lapic = self.lapic()?;
        Ok([ISR, IRR].into_iter().find_map(|first| {
            // 256 bits in eight registers, 16 bytes apart.
            (0..=u8::MAX).rev().find(|vector| {
                let (word, bit) = (usize::from(vector / 32), vector % 32);
                register(&lapic, first + word * 0x10) & 1 << bit != 0
            })
        }))
    }

    pub(crate) fn lapic(&self) -> Result<kvm_lapic_state> {
        self.dispatcher()
            .call(Call::GetLapic, format_args!(""), || self.flush_sync_regs()?.get_lapic())
            .map_err(call_failed(Call::GetLapic, format!("vCPU {}", self.id())))
    }
}

/// Value of a 32-bit register of the local APIC.
fn register(lapic: &kvm_lapic_state, offset: usize) -> u32 {
    let bytes = lapic.regs.get(offset..offset + 4).unwrap_or_default();
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(byte.cast_unsigned()))
}
