//! Text on the debug console.
//!
//! Each byte is one OUT and one exit to the monitor. [`crate::hypercall::print_string`] needs one exit for a whole text.

use core::fmt;

use crate::port;

/// The debug console as a target of `write!`. Writing to it never fails.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebugConsole;

impl fmt::Write for DebugConsole {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the debug console prints the byte; without the device the write does nothing.
            unsafe { port::out8(port::DEBUG_CONSOLE, byte) };
        }
        Ok(())
    }
}

/// Prints formatted text on the debug console.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {{
        // The console never fails; a Display implementation that does has lost its own text.
        let _ = ::core::fmt::Write::write_fmt(
            &mut $crate::console::DebugConsole,
            ::core::format_args!($($argument)*),
        );
    }};
}

/// Prints formatted text and a line feed on the debug console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => { $crate::print!("{}\n", ::core::format_args!($($argument)*)) };
}
