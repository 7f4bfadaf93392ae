//! Power management: the fixed hardware of ACPI, at the ports where QEMU's machines have it (0x600 to 0x60b).
//!
//! | port | register (ACPI 6.5, 4.8.3) |
//! |---|---|
//! | 0x600, 16 bits | PM1 status: no event ever happens, so it reads 0 |
//! | 0x602, 16 bits | PM1 enable: keeps what is written |
//! | 0x604, 16 bits | PM1 control: SLP_EN with a type that means S5 switches the machine off |
//! | 0x608, 32 bits | the PM timer, 3.579545 MHz since the machine was built; all 32 bits count |
//!
//! The machine is always in ACPI mode (SCI_EN reads 1), and the SCI (IRQ 9) is never raised. S5 is type 0, as on QEMU's
//! machines, since some kernels write 0x2000 to 0x604 without asking the tables; type 5 is taken for it, too.

use std::io;
use std::time::{Duration, Instant};

use super::length;
use crate::device::{Action, Device, Guest};

/// The first port.
pub const PORT: u16 = 0x600;
/// Offsets from it, and lengths, as the FADT gives them.
pub const EVENT: u16 = 0;
/// Length of the event registers: status and enable.
pub const EVENT_LENGTH: u8 = 4;
/// Offset of the control register.
pub const CONTROL: u16 = 4;
/// Its length.
pub const CONTROL_LENGTH: u8 = 2;
/// Offset of the timer.
pub const TIMER: u16 = 8;
/// Its length.
pub const TIMER_LENGTH: u8 = 4;
/// The type of sleep that is S5: what `\_S5` says.
pub const S5: u8 = 0;

/// The same S5, as other machines number it.
const S5_ELSEWHERE: u8 = 5;
const SLEEP_ENABLE: u16 = 1 << 13;
const SCI_ENABLE: u16 = 1 << 0;
/// Ticks of the PM timer in a second.
const FREQUENCY: u128 = 3_579_545;

/// The registers.
#[derive(Debug)]
pub struct Power {
    enable: u16,
    control: u16,
    started: Instant,
}

impl Default for Power {
    fn default() -> Self {
        Self { enable: 0, control: SCI_ENABLE, started: Instant::now() }
    }
}

impl Power {
    /// All twelve bytes, at a time since the start.
    fn registers(&self, time: Duration) -> [u8; 12] {
        let ticks = time.as_nanos() * FREQUENCY / 1_000_000_000;
        let [t0, t1, t2, t3, ..] = ticks.to_le_bytes();
        let ([e0, e1], [c0, c1]) = (self.enable.to_le_bytes(), self.control.to_le_bytes());
        [0, 0, e0, e1, c0, c1, 0, 0, t0, t1, t2, t3]
    }

    fn set_control(&mut self, value: u16) -> Action {
        self.control = value & !SLEEP_ENABLE | SCI_ENABLE;
        let [_, high] = value.to_le_bytes();
        let sleep_type = high >> 2 & 7;
        if value & SLEEP_ENABLE != 0 && matches!(sleep_type, S5 | S5_ELSEWHERE) {
            Action::PowerOff
        } else {
            Action::Continue
        }
    }
}

/// The value with one byte of it replaced.
fn with_byte(value: u16, high: bool, byte: u8) -> u16 {
    let [low, top] = value.to_le_bytes();
    u16::from_le_bytes(if high { [low, byte] } else { [byte, top] })
}

impl Device for Power {
    fn length(&self) -> u64 {
        length::POWER
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
                2 | 3 => self.enable = with_byte(self.enable, register == 3, *byte),
                4 | 5 => {
                    let value = control.unwrap_or(self.control);
                    control = Some(with_byte(value, register == 5, *byte));
                }
                // Writing 1 clears an event; there is none. The timer cannot be set.
                _ => {}
            }
        }
        Ok(control.map_or(Action::Continue, |value| self.set_control(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::tests::guest;

    #[test]
    fn sleep_type_and_enable_switch_off() {
        let end = |value: u16| Power::default().write(4, &value.to_le_bytes(), &guest()).unwrap();
        assert_eq!(end(0x2000), Action::PowerOff, "QEMU's");
        assert_eq!(end(5 << 10 | 0x2000 | 1), Action::PowerOff);
        assert_eq!(end(5 << 10), Action::Continue, "the type alone: kernels write it first");
        assert_eq!(end(1 << 10 | 0x2000), Action::Continue, "there is no S1");
        assert_eq!(Power::default().write(5, &[0x34], &guest()).unwrap(), Action::PowerOff, "the high byte");
    }

    #[test]
    fn the_machine_is_in_acpi_mode_and_has_no_events() {
        let mut power = Power::default();
        power.write(0, &[0xff, 0xff, 0x20, 0x01], &guest()).unwrap();
        power.write(4, &[0, 0], &guest()).unwrap();
        let mut data = [0xff; 6];
        power.read(0, &mut data, &guest()).unwrap();
        assert_eq!(data, [0, 0, 0x20, 0x01, 1, 0]);
    }

    #[test]
    fn the_timer_counts_with_all_its_bits() {
        let power = Power::default();
        let timer = |seconds| {
            u32::from_le_bytes(power.registers(Duration::from_secs(seconds))[8..].try_into().unwrap())
        };
        assert_eq!(timer(1), 3_579_545);
        assert_eq!(timer(1000), 3_579_545_000);
        assert_eq!(u64::from(timer(2000)), 7_159_090_000 - (1 << 32), "it wraps");
    }
}
