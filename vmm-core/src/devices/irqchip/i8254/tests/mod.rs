//! The 8254: cases of the data sheet, a model that counts pulse by pulse, and the kernel's timer.

mod data_sheet;
mod kvm;
mod pulse_by_pulse;

use super::{Pit, time};

/// Returns the time of a CLK pulse.
fn at(tick: u64) -> u64 {
    time(tick).unwrap()
}

/// Writes values to ports at the time of a pulse.
fn write(pit: &mut Pit, tick: u64, writes: &[(u16, u8)]) {
    for (port, value) in writes {
        pit.write(*port, *value, at(tick));
    }
}

/// Reads a port several times at the time of a pulse.
fn read<const COUNT: usize>(pit: &mut Pit, tick: u64, port: u16) -> [u8; COUNT] {
    [(); COUNT].map(|()| pit.read(port, at(tick)))
}

/// Latches and reads the two bytes of a count.
fn count(pit: &mut Pit, tick: u64, counter: u8) -> u16 {
    pit.write(0x43, counter << 6, at(tick));
    u16::from_le_bytes(read(pit, tick, 0x40 + u16::from(counter)))
}
