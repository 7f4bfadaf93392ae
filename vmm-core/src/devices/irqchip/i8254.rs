//! The 8254 timer of a PC (PIT) with its three counters, and port 0x61, to which counter 2 is connected.
//!
//! | port | register |
//! |---|---|
//! | 0x40 to 0x42 | counters 0 to 2 |
//! | 0x43 | written: control word, counter latch command, read-back command |
//! | 0x61 | bit 0: GATE of counter 2; bits 1 to 3 keep what is written; read only: bit 4 toggles with each refresh, bit 5 is OUT of counter 2 |
//!
//! OUT of counter 0 is interrupt input 0. GATE of counters 0 and 1 is always high. Counter 1 was the refresh timer of early PCs; bit 4
//! of port 0x61 has its usual rate, whatever a guest makes of it. Sources: Intel's data sheets of the 8254 and, for port 0x61, of the
//! 82371AB (PIIX4).
//!
//! The counters are functions of time: they hold what they were loaded with and when, so nothing has to run, and a long time costs as
//! much as a short one. Time `now` is in nanoseconds of the machine's clock and never decreases.

mod control_word;
mod counter;
mod counting_element;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use counter::Counter;

/// Frequency of the counters in Hz.
const FREQUENCY: u128 = 1_193_182;
const NANOSECONDS: u128 = 1_000_000_000;
/// CLK pulses between two refreshes, about 15 us.
const REFRESH: u64 = 18;

/// Bits of port 0x61 that keep what is written: GATE of counter 2, speaker, two enables for errors.
const PORT_B_WRITABLE: u8 = 0x0f;
const PORT_B_GATE: u8 = 1 << 0;
const PORT_B_REFRESH: u8 = 1 << 4;
const PORT_B_OUT: u8 = 1 << 5;

/// Select bits of a control word: it is a read-back command.
const READ_BACK: u8 = 3;
/// Read-back command: the count is not latched.
const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back command: the status is not latched.
const READ_BACK_NO_STATUS: u8 = 1 << 4;

/// The 8254 timer of a PC, with port 0x61.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pit {
    counters: [Counter; 3],
    /// Bits of port 0x61 that keep what is written.
    port_b: u8,
}

impl Pit {
    /// Creates the timer as a BIOS leaves it: counter 0 in mode 3 with the highest count (18.2 Hz), counter 1 in mode 2 with 18 (the
    /// refresh), counter 2 in mode 3 with GATE low.
    pub(crate) const fn new() -> Self {
        let counters = [
            Counter::loaded(0x36, 0, true),
            Counter::loaded(0x14, 0x12, true),
            Counter::loaded(0x36, 0, false),
        ];
        Self { counters, port_b: 0 }
    }

    /// Reads a register. Port 0x43 cannot be read, and it and other ports are all ones.
    pub(crate) fn read(&mut self, port: u16, now: u64) -> u8 {
        let tick = tick(now);
        let [counter0, counter1, counter2] = &mut self.counters;
        match port {
            0x40 => counter0.read(tick),
            0x41 => counter1.read(tick),
            0x42 => counter2.read(tick),
            0x61 => {
                let refresh = if tick / REFRESH % 2 == 1 { PORT_B_REFRESH } else { 0 };
                let out = if counter2.out(tick) { PORT_B_OUT } else { 0 };
                self.port_b & PORT_B_WRITABLE | refresh | out
            }
            _ => 0xff,
        }
    }

    /// Writes a register. OUT of counter 0 can change at once: compare [`Pit::output`] before and after.
    pub(crate) fn write(&mut self, port: u16, value: u8, now: u64) {
        let tick = tick(now);
        let [counter0, counter1, counter2] = &mut self.counters;
        match port {
            0x40 => counter0.write(value, tick),
            0x41 => counter1.write(value, tick),
            0x42 => counter2.write(value, tick),
            0x43 => self.write_control(value, tick),
            0x61 => {
                self.port_b = value & PORT_B_WRITABLE;
                counter2.set_gate(value & PORT_B_GATE != 0, tick);
            }
            _ => {}
        }
    }

    /// Returns OUT of counter 0.
    pub(crate) fn output(&self, now: u64) -> bool {
        let [counter0, ..] = &self.counters;
        counter0.out(tick(now))
    }

    /// Returns the first time after `now` at which OUT of counter 0 changes, if nothing is written before; `None` if it stays as it is.
    pub(crate) fn next_output_change(&self, now: u64) -> Option<u64> {
        let [counter0, ..] = &self.counters;
        counter0.next_out_change(tick(now)).and_then(time)
    }

    /// Returns the number of rising edges of counter 0's OUT after `from`, up to and including `to`. Nothing may have been written
    /// after `from`: an edge that a write makes is not counted.
    pub(crate) fn edges(&self, from: u64, to: u64) -> u64 {
        let [counter0, ..] = &self.counters;
        counter0.rising_edges(tick(from), tick(to))
    }

    fn write_control(&mut self, value: u8, tick: u64) {
        let select = value >> 6;
        if select == READ_BACK {
            let selected = (0..).zip(&mut self.counters).filter(|(index, _)| value >> (index + 1) & 1 != 0);
            for (_, counter) in selected {
                if value & READ_BACK_NO_COUNT == 0 {
                    counter.latch_count(tick);
                }
                if value & READ_BACK_NO_STATUS == 0 {
                    counter.latch_status(tick);
                }
            }
        } else if let Some(counter) = self.counters.get_mut(usize::from(select)) {
            counter.write_control(value, tick);
        }
    }
}

/// Returns the number of CLK pulses up to a time.
fn tick(now: u64) -> u64 {
    u64::try_from(u128::from(now) * FREQUENCY / NANOSECONDS).unwrap_or(u64::MAX)
}

/// Returns the time of a CLK pulse, the first at which [`tick`] has its number; `None` if it is too far away.
fn time(tick: u64) -> Option<u64> {
    u64::try_from((u128::from(tick) * NANOSECONDS).div_ceil(FREQUENCY)).ok()
}
