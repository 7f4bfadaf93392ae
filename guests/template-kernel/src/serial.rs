//! Text on the first serial port, a 16550.
//!
//! The monitor shows it as it comes. Nothing has to be set up for that; a real port would want a speed.

use core::fmt;

use crate::port;

/// The first of its eight registers: data.
const COM1: u16 = 0x3f8;
/// The line status register; bit 5: a byte can be written.
const LINE_STATUS: u16 = COM1 + 5;

/// The serial port as a target of `write!`. Writing to it never fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct Serial;

impl fmt::Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: reading the status changes nothing that this code uses.
            while unsafe { port::in8(LINE_STATUS) } & 1 << 5 == 0 {}
            // SAFETY: the port sends the byte, no more.
            unsafe { port::out8(COM1, byte) };
        }
        Ok(())
    }
}

/// Prints formatted text on the serial port.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        // The port never fails; a Display implementation that does has lost its own text.
        let _ = ::core::fmt::Write::write_fmt(&mut $crate::serial::Serial, ::core::format_args!($($argument)*));
    }};
}

/// Prints formatted text and a line feed on the serial port.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print!("{}\n", ::core::format_args!($($argument)*)) };
}
