//! The devices of a machine. Each is registers and a meaning; where it sits is the bus's business.

mod debug_console;
mod debug_exit;
mod hypercall;
mod serial;

pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use hypercall::{Hypercall, Status as HypercallStatus};
pub use serial::Serial;

/// How many addresses each device takes, for those that check a machine before it is built.
pub mod length {
    /// The debug console: one register.
    pub const DEBUG_CONSOLE: u64 = 1;
    /// The 16550: eight registers.
    pub const SERIAL: u64 = 8;
    /// The exit port: four bytes, as QEMU's `isa-debug-exit,iosize=0x04`.
    pub const DEBUG_EXIT: u64 = 4;
    /// The hypercall registers.
    pub const HYPERCALL: u64 = 64;
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use crate::device::tests::TestGuest;

    pub(crate) fn guest() -> TestGuest {
        TestGuest::new()
    }

    /// An output that can be looked at.
    #[derive(Clone, Default)]
    pub(crate) struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Shared {
        pub(crate) fn bytes(&self) -> Vec<u8> {
            self.0.lock().unwrap().clone()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
