//! Registers of a local APIC, and their place in memory in xAPIC mode (SDM vol. 3, 11.4.1, table 11-1).

use super::error_status::ILLEGAL_REGISTER;
use super::lvt::Lvt;
use super::{ApicEffect, ApicMode, LocalApic, SOFTWARE_ENABLE, SPURIOUS_BITS};
use crate::devices::irqchip::message::vector_field;

/// Version register: version 0x14, and the number of the last entry of the local vector table.
const VERSION: u32 = 0x14 | 5 << 16;
/// Bits 0 to 27 of the destination format register, which are always set.
const DESTINATION_FORMAT_ONES: u32 = 0x0fff_ffff;

/// Register of a local APIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ApicRegister {
    Id,
    Version,
    TaskPriority,
    ArbitrationPriority,
    ProcessorPriority,
    EndOfInterrupt,
    LogicalDestination,
    DestinationFormat,
    Spurious,
    /// ISR: vectors from 32 times this number on.
    InService(u8),
    /// TMR: vectors from 32 times this number on.
    LevelTriggered(u8),
    /// IRR: vectors from 32 times this number on.
    Requested(u8),
    ErrorStatus,
    /// Interrupt command: bits 0 to 31 in xAPIC mode, all 64 in x2APIC mode.
    InterruptCommand,
    /// Interrupt command: bits 32 to 63, in xAPIC mode only.
    InterruptCommandHigh,
    LocalVector(Lvt),
    InitialCount,
    CurrentCount,
    DivideConfiguration,
    /// Message to this APIC, in x2APIC mode only.
    SelfIpi,
}

impl ApicRegister {
    /// Returns the register at the 16 bytes from `number * 16` on, which is MSR `0x800 + number` in x2APIC mode.
    pub(super) fn from_number(number: u16) -> Option<Self> {
        let word = u8::try_from(number & 7).unwrap_or(0);
        Some(match number {
            0x02 => Self::Id,
            0x03 => Self::Version,
            0x08 => Self::TaskPriority,
            0x09 => Self::ArbitrationPriority,
            0x0a => Self::ProcessorPriority,
            0x0b => Self::EndOfInterrupt,
            0x0d => Self::LogicalDestination,
            0x0e => Self::DestinationFormat,
            0x0f => Self::Spurious,
            0x10..=0x17 => Self::InService(word),
            0x18..=0x1f => Self::LevelTriggered(word),
            0x20..=0x27 => Self::Requested(word),
            0x28 => Self::ErrorStatus,
            0x30 => Self::InterruptCommand,
            0x31 => Self::InterruptCommandHigh,
            0x32..=0x37 => Self::LocalVector(*Lvt::ALL.get(usize::from(number - 0x32))?),
            0x38 => Self::InitialCount,
            0x39 => Self::CurrentCount,
            0x3e => Self::DivideConfiguration,
            0x3f => Self::SelfIpi,
            _ => return None,
        })
    }

    /// Returns the register at an offset in xAPIC mode.
    fn from_offset(offset: u16) -> Option<Self> {
        let register = Self::from_number(offset / 16).filter(|_| offset.is_multiple_of(16))?;
        (register != Self::SelfIpi).then_some(register)
    }
}

impl LocalApic {
    /// Reads the register at an offset from the base address, a multiple of 16. All bits are set if the APIC is not in xAPIC
    /// mode. A register that does not exist reads 0, and is an error for the error status.
    pub(crate) fn read(&mut self, offset: u16, now: u64) -> u32 {
        if self.mode != ApicMode::XApic {
            return u32::MAX;
        }
        self.advance(now);
        let Some(register) = ApicRegister::from_offset(offset) else {
            self.report_error(ILLEGAL_REGISTER);
            return 0;
        };
        self.register(register, now)
    }

    /// Writes the register at an offset from the base address, a multiple of 16. Reserved bits are ignored, and so is a write if
    /// the APIC is not in xAPIC mode.
    pub(crate) fn write(&mut self, offset: u16, value: u32, now: u64) -> ApicEffect {
        if self.mode != ApicMode::XApic {
            return ApicEffect::None;
        }
        self.advance(now);
        let Some(register) = ApicRegister::from_offset(offset) else {
            self.report_error(ILLEGAL_REGISTER);
            return ApicEffect::None;
        };
        self.set_register(register, value, now)
    }

    /// Returns the value of a register; those that can only be written read 0.
    pub(super) fn register(&self, register: ApicRegister, now: u64) -> u32 {
        let [low, high] =
            [self.icr, self.icr >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap_or(0));
        match register {
            ApicRegister::Id if self.mode == ApicMode::X2Apic => self.id,
            ApicRegister::Id => u32::from(self.xapic_id) << 24,
            ApicRegister::Version => VERSION,
            ApicRegister::TaskPriority => self.task_priority.into(),
            ApicRegister::ArbitrationPriority => self.arbitration_priority().into(),
            ApicRegister::ProcessorPriority => self.processor_priority().into(),
            ApicRegister::LogicalDestination => self.logical_destination(),
            ApicRegister::DestinationFormat => {
                u32::from(self.destination_format) << 28 | DESTINATION_FORMAT_ONES
            }
            ApicRegister::Spurious => self.spurious,
            ApicRegister::InService(word) => self.in_service.word(word),
            ApicRegister::LevelTriggered(word) => self.level_triggered.word(word),
            ApicRegister::Requested(word) => self.requested.word(word),
            ApicRegister::ErrorStatus => self.errors.value(),
            ApicRegister::InterruptCommand => low,
            ApicRegister::InterruptCommandHigh => high,
            ApicRegister::LocalVector(lvt) => self.lvt.register(lvt),
            ApicRegister::InitialCount => self.timer.initial_count(),
            ApicRegister::CurrentCount => self.current_count(now),
            ApicRegister::DivideConfiguration => self.timer.divide_configuration(),
            ApicRegister::EndOfInterrupt | ApicRegister::SelfIpi => 0,
        }
    }

    /// Writes a register. Bits that do not exist are ignored, and so are writes of registers that can only be read.
    pub(super) fn set_register(&mut self, register: ApicRegister, value: u32, now: u64) -> ApicEffect {
        let [lowest, _, _, highest] = value.to_le_bytes();
        match register {
            ApicRegister::Id => self.xapic_id = highest,
            ApicRegister::TaskPriority => self.task_priority = lowest,
            ApicRegister::EndOfInterrupt => return self.end_of_interrupt(),
            ApicRegister::LogicalDestination => self.logical_id = highest,
            ApicRegister::DestinationFormat => self.destination_format = highest >> 4,
            ApicRegister::Spurious => {
                self.spurious = value & SPURIOUS_BITS;
                if value & SOFTWARE_ENABLE == 0 {
                    self.lvt.mask_all();
                }
            }
            ApicRegister::ErrorStatus => self.errors.write(),
            ApicRegister::InterruptCommand => {
                return self.send(self.icr >> 32 << 32 | u64::from(value));
            }
            ApicRegister::InterruptCommandHigh => {
                self.icr = self.icr & 0xffff_ffff | u64::from(value & 0xff << 24) << 32;
            }
            ApicRegister::LocalVector(lvt) => self.set_lvt(lvt, value),
            ApicRegister::InitialCount => self.set_initial_count(value, now),
            ApicRegister::DivideConfiguration => self.timer.set_divide_configuration(value, now),
            ApicRegister::SelfIpi => return self.send_to_self(vector_field(value)),
            ApicRegister::Version
            | ApicRegister::ArbitrationPriority
            | ApicRegister::ProcessorPriority
            | ApicRegister::InService(_)
            | ApicRegister::LevelTriggered(_)
            | ApicRegister::Requested(_)
            | ApicRegister::CurrentCount => {}
        }
        ApicEffect::None
    }
}
