//! The 8254 timer: its channel 0 is line 0 of the PIC (Intel 8254 data sheet).

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use template_kernel::port::out8;

use super::{FIRST_IRQ, pic};

pub(super) const VECTOR: u8 = FIRST_IRQ;

const CHANNEL_0: u16 = 0x40;
const MODE: u16 = 0x43;
/// It counts 1,193,182 times a second; that is 200 interrupts a second.
const COUNT: u16 = 5966;

static TICKS: AtomicU32 = AtomicU32::new(0);

/// Lets channel 0 interrupt again and again.
pub(crate) fn start() {
    let [low, high] = COUNT.to_le_bytes();
    // 0x34: channel 0, low byte then high byte, mode 2 (rate generator), binary.
    for (port, value) in [(MODE, 0x34), (CHANNEL_0, low), (CHANNEL_0, high)] {
        // SAFETY: the timer is ours, and its interrupt has a handler.
        unsafe { out8(port, value) };
    }
}

/// How many interrupts there were.
pub(crate) fn ticks() -> u32 {
    TICKS.load(Relaxed)
}

pub(super) fn interrupt() {
    TICKS.fetch_add(1, Relaxed);
    pic::end_of_interrupt();
}
