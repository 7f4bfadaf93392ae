//! Power management: the fixed hardware of ACPI, at the ports of QEMU's machines (0x600 to 0x60b).
//!
//! | port | register (ACPI 6.5, 4.8.3) |
//! |---|---|
//! | 0x600, 16 bits | PM1 status: wake-up events; writing a 1 clears the bit |
//! | 0x602, 16 bits | PM1 enable: keeps what is written; bit 10 lets the clock's alarm wake the machine |
//! | 0x604, 16 bits | PM1 control: SLP_EN with the type of S5 switches the machine off, with that of S3 suspends it |
//! | 0x608, 32 bits | the PM timer, 3.579545 MHz since the machine was built |
//!
//! The machine is always in ACPI mode (SCI_EN reads 1), and the SCI (IRQ 9) is never raised. S5 is type 0 and S3 type 1, as
//! on QEMU's machines, since some kernels write 0x2000 to 0x604 without asking the tables; type 5 is taken for S5, too.
//! This device only reports the suspend; `machine/suspend.rs` carries it out.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::rtc::{AlarmHandle, now};
use crate::Port;
use crate::devices::device::{Action, Device, Guest, StateMismatch, from_bytes, to_bytes};
use crate::devices::info::{DeviceInfo, DeviceLocation};
use crate::spec::BusAddress;

/// Declaration of the device.
pub(super) const DEVICE: DeviceInfo = DeviceInfo {
    name: "power",
    title: "power management",
    location: DeviceLocation::Fixed(BusAddress::Port(Port(PORT))),
    length: 12,
    irqs: &[],
    purpose: "power-off, sleep, and a timer of 3.58 MHz",
};

/// First I/O port of ACPI's power management registers.
pub const PORT: u16 = 0x600;
/// Offset of the event registers from the first port.
pub const EVENT: u16 = 0;
/// Length of the event registers (status and enable) in bytes.
pub const EVENT_LENGTH: u8 = 4;
/// Offset of the control register from the first port.
pub const CONTROL: u16 = 4;
/// Length of the control register in bytes.
pub const CONTROL_LENGTH: u8 = 2;
/// Offset of the power management timer from the first port.
pub const TIMER: u16 = 8;
/// Length of the power management timer in bytes.
pub const TIMER_LENGTH: u8 = 4;
/// Value of SLP_TYP for S5 (power-off), as `\_S5` in the DSDT has it.
pub const S5: u8 = 0;
/// Value of SLP_TYP for S3 (suspend to memory), as `\_S3` in the DSDT has it.
pub const S3: u8 = 1;

/// SLP_TYP value of S5 on other machines.
const S5_ELSEWHERE: u8 = 5;
const SLEEP_ENABLE: u16 = 1 << 13;
const SCI_ENABLE: u16 = 1 << 0;
/// Status and enable: the clock's alarm.
const CLOCK: u16 = 1 << 10;
/// Status: the machine woke from sleep (WAK_STS).
const WAKE: u16 = 1 << 15;
/// Frequency of the PM timer in Hz.
const FREQUENCY: u128 = 3_579_545;

/// Saved state of the registers; `elapsed` is the age of the timer.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedAcpiPm {
    status: u16,
    enable: u16,
    control: u16,
    elapsed: Duration,
}

/// Registers of ACPI's power management: events, control and timer.
#[derive(Debug)]
pub struct AcpiPm {
    /// Alarm of the clock.
    alarm: AlarmHandle,
    status: u16,
    enable: u16,
    control: u16,
    started: Instant,
}

impl AcpiPm {
    /// Creates the registers; `alarm` of the real-time clock can wake a suspended machine.
    #[must_use]
    pub fn new(alarm: AlarmHandle) -> Self {
        Self { alarm, status: 0, enable: 0, control: SCI_ENABLE, started: Instant::now() }
    }

    /// Returns all twelve bytes at a time since the start.
    fn registers(&self, time: Duration) -> [u8; 12] {
        let ticks = time.as_nanos() * FREQUENCY / 1_000_000_000;
        let [t0, t1, t2, t3, ..] = ticks.to_le_bytes();
        let [[s0, s1], [e0, e1], [c0, c1]] = [self.status, self.enable, self.control].map(u16::to_le_bytes);
        [s0, s1, e0, e1, c0, c1, 0, 0, t0, t1, t2, t3]
    }

    fn set_control(&mut self, value: u16) -> Action {
        self.control = value & !SLEEP_ENABLE | SCI_ENABLE;
        let [_, high] = value.to_le_bytes();
        match high >> 2 & 7 {
            _ if value & SLEEP_ENABLE == 0 => Action::Continue,
            S5 | S5_ELSEWHERE => Action::PowerOff,
            S3 => self.suspend(now()),
            // S1, S2 and S4 are not offered.
            _ => Action::Continue,
        }
    }

    /// Suspends the machine at a time since the epoch.
    fn suspend(&mut self, now: Duration) -> Action {
        let wake = Some(self.enable).filter(|enable| enable & CLOCK != 0).and_then(|_| self.alarm.next(now));
        // The guest reads these after it has woken.
        self.status |= if wake.is_some() { WAKE | CLOCK } else { 0 };
        Action::Suspend { wake }
    }
}

/// Returns the value with one byte replaced.
fn with_byte(value: u16, high: bool, byte: u8) -> u16 {
    let [low, top] = value.to_le_bytes();
    u16::from_le_bytes(if high { [low, byte] } else { [byte, top] })
}

impl Device for AcpiPm {
    fn length(&self) -> u64 {
        DEVICE.length
    }

    fn read(&mut self, offset: u64, data: &mut [u8], _: &dyn Guest) -> io::Result<Action> {
        let registers = self.registers(self.started.elapsed());
        let from = usize::try_from(offset).ok().and_then(|offset| registers.get(offset..));
        for (byte, register) in data.iter_mut().zip(from.unwrap_or_default()) {
            *byte = *register;
        }
        Ok(Action::Continue)
    }

    fn write(&mut self, offset: u64, data: &[u8], _: &dyn Guest) -> io::Result<Action> {
        let mut control = None;
        for (register, byte) in (offset..).zip(data) {
            match register {
                0 | 1 => self.status &= !with_byte(0, register == 1, *byte),
                2 | 3 => self.enable = with_byte(self.enable, register == 3, *byte),
                4 | 5 => {
                    let value = control.unwrap_or(self.control);
                    control = Some(with_byte(value, register == 5, *byte));
                }
                // The timer cannot be set.
                _ => {}
            }
        }
        Ok(control.map_or(Action::Continue, |value| self.set_control(value)))
    }

    fn save(&self) -> Option<Vec<u8>> {
        let Self { status, enable, control, ref started, .. } = *self;
        to_bytes(&SavedAcpiPm { status, enable, control, elapsed: started.elapsed() })
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), StateMismatch> {
        let SavedAcpiPm { status, enable, control, elapsed } = from_bytes(state)?;
        // The timer goes on from where it was.
        self.started = Instant::now().checked_sub(elapsed).ok_or(StateMismatch)?;
        (self.status, self.enable, self.control) = (status, enable, control);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::irq::IrqLine;
    use crate::devices::rtc::{MemorySizes, Rtc};
    use crate::devices::test_doubles::EdgeCounter;
    use crate::devices::tests::guest;

    fn power() -> AcpiPm {
        AcpiPm::new(AlarmHandle::default())
    }

    #[test]
    fn sleep_type_and_enable_switch_off() {
        let end = |value: u16| power().write(4, &value.to_le_bytes(), &guest()).unwrap();
        assert_eq!(end(0x2000), Action::PowerOff, "QEMU's");
        assert_eq!(end(5 << 10 | 0x2000 | 1), Action::PowerOff);
        assert_eq!(end(5 << 10), Action::Continue, "the type alone: kernels write it first");
        assert_eq!(end(2 << 10 | 0x2000), Action::Continue, "nothing sleeps like that here");
        assert_eq!(end(1 << 10 | 0x2000), Action::Suspend { wake: None });
        assert_eq!(power().write(5, &[0x34], &guest()).unwrap(), Action::PowerOff, "the high byte");
    }

    #[test]
    fn the_machine_is_in_acpi_mode_and_nothing_woke_it() {
        let mut power = power();
        power.write(0, &[0xff, 0xff, 0x20, 0x01], &guest()).unwrap();
        power.write(4, &[0, 0], &guest()).unwrap();
        let mut data = [0xff; 6];
        power.read(0, &mut data, &guest()).unwrap();
        assert_eq!(data, [0, 0, 0x20, 0x01, 1, 0]);
    }

    #[test]
    fn it_sleeps_until_the_alarm_if_that_may_wake_it() {
        let wire = AlarmHandle::default();
        let mut clock =
            Rtc::new(MemorySizes::default(), IrqLine::new(EdgeCounter::default()), wire.clone()).unwrap();
        let mut power = AcpiPm::new(wire);
        let status =
            |power: &AcpiPm| u16::from_le_bytes(power.registers(Duration::ZERO)[..2].try_into().unwrap());
        let suspend = |power: &mut AcpiPm| {
            let action = power.write(4, &0x2400_u16.to_le_bytes(), &guest()).unwrap();
            let Action::Suspend { wake } = action else { panic!("{action:?}") };
            wake
        };
        power.write(2, &CLOCK.to_le_bytes(), &guest()).unwrap();
        assert_eq!((suspend(&mut power), status(&power)), (None, 0), "no alarm");
        // At any second; alarm and 24 hours on.
        for (register, value) in [(1, 0xff), (3, 0xff), (5, 0xff), (0x0b, 0x22)] {
            clock.write(0, &[register, value], &guest()).unwrap();
        }
        let before = now();
        let wake = suspend(&mut power).unwrap();
        assert!(wake > before && wake <= now() + Duration::from_secs(1) && wake.subsec_nanos() == 0);
        assert_eq!(status(&power), WAKE | CLOCK);
        power.write(0, &[0, 0x80], &guest()).unwrap();
        assert_eq!(status(&power), CLOCK, "cleared by a 1");
        power.write(0, &[0, 0x04, 0, 0], &guest()).unwrap();
        assert_eq!((suspend(&mut power), status(&power)), (None, 0), "the alarm may not wake it");
    }

    #[test]
    fn a_restored_timer_goes_on() {
        let mut old = power();
        old.started -= Duration::from_secs(100);
        old.write(2, &[0x20, 0x04], &guest()).unwrap();
        let mut new = power();
        new.restore(&old.save().unwrap()).unwrap();
        assert_eq!(new.enable, 0x0420);
        let elapsed = new.started.elapsed();
        assert!(elapsed >= Duration::from_secs(100) && elapsed <= old.started.elapsed());
        assert_eq!(new.restore(&[1, 2]), Err(StateMismatch));
    }

    #[test]
    fn the_timer_counts_with_all_its_bits() {
        let power = power();
        let timer = |seconds| {
            u32::from_le_bytes(power.registers(Duration::from_secs(seconds))[8..].try_into().unwrap())
        };
        assert_eq!(timer(1), 3_579_545);
        assert_eq!(timer(1000), 3_579_545_000);
        assert_eq!(u64::from(timer(2000)), 7_159_090_000 - (1 << 32), "it wraps");
    }
}
