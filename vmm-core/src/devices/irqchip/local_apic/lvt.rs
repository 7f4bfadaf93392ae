//! Local vector table: interrupts of the timer, of errors and of the inputs LINT0 and LINT1 (SDM vol. 3, 11.5.1).

use serde::{Deserialize, Serialize};

use super::timer::TimerMode;
use super::{ApicMode, CpuEvent, LocalApic};
use crate::devices::irqchip::message::{DeliveryMode, TriggerMode, vector_field};

/// Bit 16 of an entry: masked.
const MASKED: u32 = 1 << 16;
const VECTOR: u32 = 0xff;
const DELIVERY_MODE: u32 = 0b111 << 8;
/// Bits 13 and 15 of the entries of inputs: polarity and trigger mode.
const INPUT_BITS: u32 = 1 << 13 | 1 << 15;
/// Bits 12 and 14: delivery status and remote IRR, which software cannot change.
const READ_ONLY: u32 = 1 << 12 | 1 << 14;

/// Entry of the local vector table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lvt {
    Timer,
    Thermal,
    PerformanceCounter,
    Lint0,
    Lint1,
    Error,
}

impl Lvt {
    /// All entries, in the order of their registers.
    pub(super) const ALL: [Self; 6] =
        [Self::Timer, Self::Thermal, Self::PerformanceCounter, Self::Lint0, Self::Lint1, Self::Error];

    /// Returns the bits that software can change.
    const fn writable(self) -> u32 {
        let own = match self {
            Self::Timer => TimerMode::FIELD,
            Self::Thermal | Self::PerformanceCounter => DELIVERY_MODE,
            Self::Lint0 | Self::Lint1 => DELIVERY_MODE | INPUT_BITS,
            Self::Error => 0,
        };
        VECTOR | MASKED | own
    }

    /// Returns the bits that are not reserved.
    pub(super) const fn defined(self) -> u32 {
        self.writable() | READ_ONLY
    }
}

/// Registers of the local vector table, in the order of [`Lvt::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LocalVectorTable([u32; 6]);

/// Decoded entry of the local vector table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LvtEntry {
    /// Vector of the interrupt.
    pub(crate) vector: u8,
    /// Effect on the processor.
    pub(crate) mode: DeliveryMode,
    /// True if the source cannot interrupt.
    pub(crate) masked: bool,
}

impl Default for LocalVectorTable {
    /// Returns the table after reset: all entries are masked.
    fn default() -> Self {
        Self([MASKED; 6])
    }
}

impl LocalVectorTable {
    pub(super) fn register(&self, lvt: Lvt) -> u32 {
        self.0.get(lvt as usize).copied().unwrap_or(MASKED)
    }

    pub(super) fn entry(&self, lvt: Lvt) -> LvtEntry {
        let register = self.register(lvt);
        let mode = match lvt {
            Lvt::Timer | Lvt::Error => DeliveryMode::Fixed,
            Lvt::Thermal | Lvt::PerformanceCounter | Lvt::Lint0 | Lvt::Lint1 => {
                DeliveryMode::from_register(register)
            }
        };
        LvtEntry { vector: vector_field(register), mode, masked: register & MASKED != 0 }
    }

    /// Sets the bits of an entry that software can change.
    fn set(&mut self, lvt: Lvt, value: u32) {
        if let Some(register) = self.0.get_mut(lvt as usize) {
            *register = value & lvt.writable();
        }
    }

    /// Masks all entries, as disabling the APIC by software does (11.4.7.2).
    pub(super) fn mask_all(&mut self) {
        for register in &mut self.0 {
            *register |= MASKED;
        }
    }

    /// Sets LINT0 to vectors of the PICs, unmasked.
    pub(super) fn set_virtual_wire(&mut self) {
        self.set(Lvt::Lint0, DELIVERY_MODE);
    }
}

impl LocalApic {
    /// Writes an entry. The mask cannot be removed while the APIC is disabled by software.
    pub(super) fn set_lvt(&mut self, lvt: Lvt, value: u32) {
        let before = self.timer_mode();
        self.lvt.set(lvt, if self.is_software_enabled() { value } else { value | MASKED });
        // A deadline is no count, so changing between them turns the timer off (11.5.4.1).
        if (before == TimerMode::TscDeadline) != (self.timer_mode() == TimerMode::TscDeadline) {
            self.timer.stop();
        }
    }

    /// Returns the mode of the timer.
    pub(super) fn timer_mode(&self) -> TimerMode {
        TimerMode::from_register(self.lvt.register(Lvt::Timer))
    }

    /// Sets the level of LINT0, to which the PICs lead, and returns the event for the processor if it has one. As ExtINT, LINT0
    /// asks for a vector of the PICs as long as it is high ([`LocalApic::pending`]). In all other modes a rising edge counts, in
    /// the level-triggered one too.
    pub(crate) fn set_lint0(&mut self, level: bool) -> Option<CpuEvent> {
        let is_rising = level && !self.lint0;
        self.lint0 = level;
        let entry = self.lvt.entry(Lvt::Lint0);
        if !is_rising || entry.masked || self.mode == ApicMode::Disabled {
            return None;
        }
        match entry.mode {
            DeliveryMode::Fixed => {
                self.request(entry.vector, TriggerMode::Edge);
                None
            }
            DeliveryMode::Nmi => Some(CpuEvent::Nmi),
            DeliveryMode::Smi => Some(CpuEvent::Smi),
            DeliveryMode::Init => Some(CpuEvent::Init),
            DeliveryMode::ExtInt
            | DeliveryMode::LowestPriority
            | DeliveryMode::StartUp
            | DeliveryMode::Reserved => None,
        }
    }

    /// Returns true if the PICs ask for an interrupt. The input leads directly to the processor if the APIC is disabled
    /// (11.4.3).
    pub(super) fn wants_pic_vector(&self) -> bool {
        self.lint0 && self.takes_pic_vectors()
    }

    /// Returns true if requests of the PICs, which lead to LINT0, interrupt the processor.
    pub(crate) fn takes_pic_vectors(&self) -> bool {
        let entry = self.lvt.entry(Lvt::Lint0);
        !entry.masked && entry.mode == DeliveryMode::ExtInt || self.mode == ApicMode::Disabled
    }
}
