//! The devices of a machine. Each is registers and a meaning; where it sits is the bus's business.

pub mod acpi_pm;
pub mod bus;
pub mod console;
pub mod crtc;
mod debug_console;
mod debug_exit;
pub mod device;
pub mod fw_cfg;
pub(crate) mod hypercall;
pub mod i8042;
pub mod irq;
pub mod kvm_testdev;
pub mod null_ports;
pub mod pc;
pub mod reset_ports;
pub mod rtc;
pub(crate) mod serial;
pub mod virtio;

pub use debug_console::DebugConsole;
pub use debug_exit::DebugExit;
pub use hypercall::{Hypercall, HypercallStatus};
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
    /// The clock: index and data.
    pub const RTC: u64 = 2;
    /// The keyboard controller: from its data port 0x60 to its command port 0x64.
    pub const I8042: u64 = 5;
    /// Power management: PM1 event and control registers, PM timer.
    pub const POWER: u64 = 12;
    /// The display's registers: index and data.
    pub const CRTC: u64 = 2;
    /// The reset control register.
    pub const RESET_CONTROL: u64 = 1;
    /// System control port A.
    pub const SYSTEM_CONTROL: u64 = 1;
    /// The configuration device: key and data.
    pub const FW_CFG: u64 = 2;
    /// The test device: four bytes, and the flush register.
    pub const KVM_TESTDEV_PORTS: u64 = 8;
    /// The test device: a port for each input of an IOAPIC.
    pub const KVM_TESTDEV_LINES: u64 = 24;
    /// The test device: 64 KiB of address space.
    pub const KVM_TESTDEV_MEMORY: u64 = 0x1_0000;
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use crate::devices::device::tests::TestGuest;

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
