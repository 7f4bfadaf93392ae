//! FADT and MADT: tables of fixed form.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

use super::{HEADER, OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::devices::{acpi_pm, rtc};
use crate::firmware::{IOAPIC, IOAPIC_ID, LOCAL_APIC, SCI};
use crate::spec::{Interrupts, MachineSpec};

/// IAPC_BOOT_ARCH (5.2.9.3): legacy devices on the board.
const LEGACY_DEVICES: u16 = 1 << 0;
/// IAPC_BOOT_ARCH: keyboard controller present.
const KEYBOARD_CONTROLLER: u16 = 1 << 1;
/// IAPC_BOOT_ARCH: no VGA.
const NO_VGA: u16 = 1 << 2;
/// IAPC_BOOT_ARCH: no real-time clock.
const NO_RTC: u16 = 1 << 5;

/// Latency of a C-state that is not supported (5.2.9).
const NO_C_STATE: u16 = 0xfff;
/// Value for port 0xcf9 that resets the machine.
const RESET_VALUE: u8 = 0x06;

/// Returns the FADT. SMI_CMD is 0: the machine is always in ACPI mode.
pub(super) fn fadt(spec: &MachineSpec, facs: u32, dsdt: u32) -> Vec<u8> {
    let platform = &spec.devices.platform;
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        // Power and sleep button are not fixed hardware.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1);
    fadt = if platform.power {
        fadt.flag(Flags::TmrValExt).flag(Flags::ResetRegSup)
    } else {
        fadt.flag(Flags::HwReducedAcpi)
    };
    // Without both devices, the clock cannot wake the machine.
    if !(platform.power && platform.rtc) {
        fadt = fadt.flag(Flags::FixRtc);
    }
    fadt.firmware_ctrl = facs.into();
    (fadt.dsdt, fadt.x_dsdt) = (dsdt.into(), u64::from(dsdt).into());
    (fadt.p_lvl2_lat, fadt.p_lvl3_lat) = (NO_C_STATE.into(), NO_C_STATE.into());
    fadt.sci_int = SCI.into();
    if platform.power {
        let port = |offset: u16| acpi_pm::PORT + offset;
        fadt.pm1a_evt_blk = u32::from(port(acpi_pm::EVENT)).into();
        fadt.pm1a_cnt_blk = u32::from(port(acpi_pm::CONTROL)).into();
        fadt.pm_tmr_blk = u32::from(port(acpi_pm::TIMER)).into();
        fadt.pm1_evt_len = acpi_pm::EVENT_LENGTH;
        fadt.pm1_cnt_len = acpi_pm::CONTROL_LENGTH;
        fadt.pm_tmr_len = acpi_pm::TIMER_LENGTH;
        fadt.x_pm1a_evt_blk = register(port(acpi_pm::EVENT), 32, AccessSize::WordAccess);
        fadt.x_pm1a_cnt_blk = register(port(acpi_pm::CONTROL), 16, AccessSize::WordAccess);
        fadt.x_pm_tmr_blk = register(port(acpi_pm::TIMER), 32, AccessSize::DwordAccess);
        fadt.reset_reg = register(0xcf9, 8, AccessSize::ByteAccess);
        fadt.reset_value = RESET_VALUE;
    }
    if platform.rtc {
        fadt.century = rtc::CENTURY;
    }
    let keyboard = if platform.i8042 { KEYBOARD_CONTROLLER } else { 0 };
    let clock = if platform.rtc { 0 } else { NO_RTC };
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | keyboard | clock).into();
    bytes(&fadt.finalize())
}

fn register(port: u16, width: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, width, 0, access, port.into())
}

/// MADT flags: two 8259s are present (5.2.12).
const PCAT_COMPAT: u32 = 1;
/// Interrupt flags (table 5.26): active high, level-triggered.
const HIGH_LEVEL: u16 = 0x0d;
/// Largest APIC ID of an entry with one byte; 255 means all.
const MAX_IDS: u32 = 255;

/// Returns the MADT: CPUs and interrupt controllers; `None` on a machine without controllers.
pub(super) fn madt(spec: &MachineSpec) -> Option<Vec<u8>> {
    let pc = match spec.interrupts {
        Interrupts::None => return None,
        Interrupts::Split => false,
        Interrupts::Pc => true,
    };
    let mut entries = Vec::new();
    for id in 0..spec.vcpus {
        match u8::try_from(id) {
            Ok(id) if u32::from(id) < MAX_IDS => {
                entries.extend(bytes(&ProcessorLocalApic::new(id, id, EnabledStatus::Enabled)));
            }
            Ok(_) | Err(_) => entries.extend(x2apic(id)),
        }
    }
    if pc {
        entries.extend(bytes(&IoApic::new(IOAPIC_ID, IOAPIC, 0)));
        // KVM routes each ISA interrupt to the IOAPIC input of the same number, including the timer. All but the SCI are
        // edge-triggered.
        entries.extend(input_override(9, SCI.into(), HIGH_LEVEL));
    }
    entries.extend(NMI);

    let mut madt = Sdt::new(*b"APIC", HEADER, 4, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&LOCAL_APIC.to_le_bytes());
    madt.append_slice(&(if pc { PCAT_COMPAT } else { 0 }).to_le_bytes());
    madt.append_slice(&entries);
    Some(madt.as_slice().to_vec())
}

/// Returns the x2APIC entry of a CPU whose ID needs more than a byte (5.2.12.12).
fn x2apic(id: u32) -> Vec<u8> {
    let enabled = 1u32;
    let mut entry = vec![9, 16, 0, 0];
    entry.extend([id, enabled, id].iter().flat_map(|field| field.to_le_bytes()));
    entry
}

/// Returns an interrupt source override: an ISA interrupt with another input or trigger mode (5.2.12.5).
fn input_override(irq: u8, input: u32, flags: u16) -> Vec<u8> {
    let mut entry = vec![2, 10, 0, irq];
    entry.extend(input.to_le_bytes());
    entry.extend(flags.to_le_bytes());
    entry
}

/// Returns the entry for NMI at input 1 of all local APICs (5.2.12.7).
const NMI: [u8; 6] = [4, 6, 0xff, 0, 0, 1];
