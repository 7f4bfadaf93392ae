//! Exceptions and interrupts: how they come into Rust, and who handles which.

pub(crate) mod apic;
pub(crate) mod exceptions;
pub(crate) mod idt;
pub(crate) mod pic;
pub(crate) mod pit;

use core::arch::asm;

use idt::Frame;

/// The PIC's interrupts begin behind the CPU's 32 exceptions.
pub(crate) const FIRST_IRQ: u8 = 32;
/// The local APIC's timer.
const APIC_TIMER: u8 = 48;
/// The local APIC's answer to an interrupt that went away meanwhile (Intel SDM vol. 3, 11.9).
const SPURIOUS: u8 = 0xff;

/// Called for every vector, with interrupts off; returns to what was interrupted.
fn handle(frame: &mut Frame) {
    match u8::try_from(frame.vector) {
        Ok(exceptions::UNDEFINED_INSTRUCTION) => exceptions::undefined_instruction(frame),
        Ok(exceptions::PAGE_FAULT) => exceptions::page_fault(frame),
        Ok(pit::VECTOR) => pit::interrupt(),
        Ok(APIC_TIMER) => apic::interrupt(),
        Ok(SPURIOUS) => {}
        Ok(_) | Err(_) => panic!("nobody expects vector {} here: {frame:x?}", frame.vector),
    }
}

/// Lets interrupts in and sleeps until one has come.
pub(crate) fn sleep() {
    // SAFETY: the handlers touch nothing that the compiler does not know to be shared. STI takes effect behind the next
    // instruction, so no interrupt comes between it and HLT.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}
