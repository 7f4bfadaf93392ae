//! The end of the run, with a status.
//!
//! A write of `v` to port 0xf4 ends the run. `vmm-cli run` then ends with status 0 for v = 0 and with 2v + 1 for
//! others, as QEMU's isa-debug-exit does; so cargo knows whether all went well.

use core::arch::asm;

use crate::port;

/// Where the monitor waits for the end.
const EXIT: u16 = 0xf4;

/// How a run can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Status 0.
    Success = 0,
    /// Status 3.
    Failure = 1,
}

/// Ends the run.
pub fn exit(status: Status) -> ! {
    // SAFETY: nothing of ours is left to be done.
    unsafe { port::out8(EXIT, status as u8) };
    // Only a machine without that port comes here.
    halt()
}

/// Stops this CPU for good: nothing wakes it while interrupts are off.
pub fn halt() -> ! {
    loop {
        // SAFETY: both touch no memory.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
