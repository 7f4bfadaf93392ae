//! Registers of a local APIC as MSRs 0x800 to 0x8ff, in x2APIC mode (SDM vol. 3, 11.12.1.2).
//!
//! Accesses that the manual does not allow raise #GP: to a register that does not exist in this mode, to one that can only be read or
//! only be written, and writes of reserved bits.

use std::ops::RangeInclusive;

use super::icr::COMMAND_BITS;
use super::registers::ApicRegister;
use super::timer::DIVIDE_BITS;
use super::{ApicEffect, ApicMode, LocalApic, SPURIOUS_BITS};

/// First MSR of the registers.
const FIRST_MSR: u32 = 0x800;
/// MSRs of the registers.
pub(crate) const X2APIC_MSRS: RangeInclusive<u32> = FIRST_MSR..=0x8ff;

/// Access that raises #GP(0) in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GeneralProtection;

impl LocalApic {
    /// Reads a register in x2APIC mode.
    ///
    /// # Errors
    /// [`GeneralProtection`] for an access that is not allowed.
    pub(crate) fn read_msr(&mut self, msr: u32, now: u64) -> Result<u64, GeneralProtection> {
        let register = self.register_at(msr)?;
        self.advance(now);
        if matches!(register, ApicRegister::EndOfInterrupt | ApicRegister::SelfIpi) {
            return Err(GeneralProtection);
        }
        let is_command = register == ApicRegister::InterruptCommand;
        Ok(if is_command { self.icr } else { self.register(register, now).into() })
    }

    /// Writes a register in x2APIC mode.
    ///
    /// # Errors
    /// [`GeneralProtection`] for an access that is not allowed; then nothing changes.
    pub(crate) fn write_msr(
        &mut self,
        msr: u32,
        value: u64,
        now: u64,
    ) -> Result<ApicEffect, GeneralProtection> {
        let register = self.register_at(msr)?;
        if value & !writable(register).ok_or(GeneralProtection)? != 0 {
            return Err(GeneralProtection);
        }
        self.advance(now);
        match (register, u32::try_from(value)) {
            (ApicRegister::InterruptCommand, _) => Ok(self.send(value)),
            (_, Ok(value)) => Ok(self.set_register(register, value, now)),
            (_, Err(_)) => Err(GeneralProtection),
        }
    }

    /// Returns the register of an MSR.
    fn register_at(&self, msr: u32) -> Result<ApicRegister, GeneralProtection> {
        if self.mode != ApicMode::X2Apic || !X2APIC_MSRS.contains(&msr) {
            return Err(GeneralProtection);
        }
        let number = u16::try_from(msr - FIRST_MSR).map_err(|_| GeneralProtection)?;
        let register = ApicRegister::from_number(number).ok_or(GeneralProtection)?;
        let is_xapic_only = matches!(
            register,
            ApicRegister::ArbitrationPriority
                | ApicRegister::DestinationFormat
                | ApicRegister::InterruptCommandHigh
        );
        if is_xapic_only { Err(GeneralProtection) } else { Ok(register) }
    }
}

/// Returns the bits of a register that a write may set; `None` if it can only be read.
fn writable(register: ApicRegister) -> Option<u64> {
    Some(match register {
        ApicRegister::TaskPriority | ApicRegister::SelfIpi => 0xff,
        ApicRegister::EndOfInterrupt | ApicRegister::ErrorStatus => 0,
        ApicRegister::Spurious => SPURIOUS_BITS.into(),
        ApicRegister::InterruptCommand => COMMAND_BITS,
        ApicRegister::LocalVector(lvt) => lvt.defined().into(),
        ApicRegister::InitialCount => u32::MAX.into(),
        ApicRegister::DivideConfiguration => DIVIDE_BITS.into(),
        ApicRegister::Id
        | ApicRegister::Version
        | ApicRegister::ArbitrationPriority
        | ApicRegister::ProcessorPriority
        | ApicRegister::LogicalDestination
        | ApicRegister::DestinationFormat
        | ApicRegister::InService(_)
        | ApicRegister::LevelTriggered(_)
        | ApicRegister::Requested(_)
        | ApicRegister::InterruptCommandHigh
        | ApicRegister::CurrentCount => return None,
    })
}
