//! The local APIC and its timer (Intel SDM vol. 3, chapter 11).

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{APIC_TIMER, SPURIOUS};
use crate::paging;

/// The MSR that says where the registers lie, in its bits 12 and up.
const APIC_BASE: u32 = 0x1b;

/// Offsets of registers.
const END_OF_INTERRUPT: usize = 0x0b0;
const SPURIOUS_VECTOR: usize = 0x0f0;
const TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const DIVIDE: usize = 0x3e0;

/// In the spurious-vector register: the APIC is on.
const ENABLED: u32 = 1 << 8;
/// In the timer's register.
const MASKED: u32 = 1 << 16;
const PERIODIC: u32 = 1 << 17;
/// Divides the timer's clock by 16.
const BY_16: u32 = 3;
/// How fast the clock is nobody says; KVM's counts nanoseconds, so this is 3.2 ms there.
const COUNT: u32 = 200_000;

static TICKS: AtomicU32 = AtomicU32::new(0);

/// Turns the APIC on and lets its timer interrupt again and again.
pub(crate) fn start_timer() {
    let (low, high): (u32, u32);
    // SAFETY: reads an MSR that every CPU with an APIC has.
    unsafe {
        asm!("rdmsr", in("ecx") APIC_BASE, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
    }
    paging::map_apic((u64::from(high) << 32 | u64::from(low)) & !0xfff);
    write(SPURIOUS_VECTOR, ENABLED | u32::from(SPURIOUS));
    write(DIVIDE, BY_16);
    write(TIMER, PERIODIC | u32::from(APIC_TIMER));
    write(INITIAL_COUNT, COUNT);
}

/// Stops the timer.
pub(crate) fn stop_timer() {
    write(TIMER, MASKED);
    write(INITIAL_COUNT, 0);
}

/// How many interrupts there were.
pub(crate) fn ticks() -> u32 {
    TICKS.load(Relaxed)
}

pub(super) fn interrupt() {
    TICKS.fetch_add(1, Relaxed);
    write(END_OF_INTERRUPT, 0);
}

fn write(register: usize, value: u32) {
    // SAFETY: the page is mapped before the first use, and the APIC's timer, which is ours, has a handler.
    unsafe { with_exposed_provenance_mut::<u32>(paging::APIC + register).write_volatile(value) };
}
