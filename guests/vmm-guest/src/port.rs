//! The instructions IN and OUT (SDM vol. 1, chapter 19), and where the machine's devices are by default.
//!
//! In ring 3 they work as well: the machine's TSS has an I/O permission bitmap of zeros.

use core::arch::asm;

/// Debug console: each byte written is printed.
pub const DEBUG_CONSOLE: u16 = 0xe9;
/// The first of eight registers of a 16550 serial port.
pub const COM1: u16 = 0x3f8;
/// Exit port: a write of `v` ends the run with the code `v * 2 + 1`, as QEMU's isa-debug-exit does.
pub const DEBUG_EXIT: u16 = 0xf4;
/// The first of the hypercall registers; see [`crate::hypercall`].
pub const HYPERCALL: u16 = 0x500;

/// Writes a byte to `port`.
///
/// # Safety
///
/// What the device does with it must be sound for the guest: some devices write to memory or end the run.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: OUT itself touches no memory; what the device does is the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Writes 32 bits to `port`.
///
/// # Safety
///
/// As for [`out8`].
pub unsafe fn out32(port: u16, value: u32) {
    // SAFETY: as in out8.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack, preserves_flags)) };
}

/// Reads a byte from `port`.
///
/// # Safety
///
/// As for [`out8`]: reading can have effects too.
#[must_use]
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as in out8.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}

/// Reads 32 bits from `port`.
///
/// # Safety
///
/// As for [`in8`].
#[must_use]
pub unsafe fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as in out8.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack, preserves_flags)) };
    value
}
