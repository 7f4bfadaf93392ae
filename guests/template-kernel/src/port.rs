//! The instructions IN and OUT (Intel SDM vol. 1, chapter 19).

use core::arch::asm;

/// Writes a byte to `port`.
///
/// # Safety
///
/// What the device there does must be sound for the kernel: some devices write to memory, or end the run.
pub unsafe fn out8(port: u16, value: u8) {
    // SAFETY: OUT itself touches no memory; what the device does is the caller's promise.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack, preserves_flags)) };
}

/// Reads a byte from `port`.
///
/// # Safety
///
/// As for [`out8`]: reading can have effects, too.
#[must_use]
pub unsafe fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: as in out8.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack, preserves_flags)) };
    value
}
