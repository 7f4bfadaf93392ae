//! The two exceptions that the tests raise on purpose: #UD and #PF. Each is counted, mended and returned from.

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::idt::Frame;
use crate::paging;

pub(super) const UNDEFINED_INSTRUCTION: u8 = 6;
pub(super) const PAGE_FAULT: u8 = 14;

/// What the CPU says of a page fault (Intel SDM vol. 3, 4.7).
pub(crate) struct PageFault {
    /// CR2: the address that could not be used.
    pub(crate) address: u64,
    /// Bit 0: the page is there; bit 1: it was a write.
    pub(crate) error: u64,
}

static UNDEFINED_INSTRUCTIONS: AtomicU32 = AtomicU32::new(0);
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);
static FAULT_ERROR: AtomicU64 = AtomicU64::new(0);

/// How many undefined instructions there were.
pub(crate) fn undefined_instructions() -> u32 {
    UNDEFINED_INSTRUCTIONS.load(Relaxed)
}

/// The last page fault.
pub(crate) fn last_page_fault() -> PageFault {
    PageFault { address: FAULT_ADDRESS.load(Relaxed), error: FAULT_ERROR.load(Relaxed) }
}

/// Goes on behind UD2, an instruction of two bytes.
pub(super) fn undefined_instruction(frame: &mut Frame) {
    UNDEFINED_INSTRUCTIONS.fetch_add(1, Relaxed);
    frame.rip += 2;
}

/// Notes the fault and goes on at the same instruction, if the page can be mended.
pub(super) fn page_fault(frame: &Frame) {
    let address: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    FAULT_ADDRESS.store(address, Relaxed);
    FAULT_ERROR.store(frame.error, Relaxed);
    assert!(paging::mend(address, frame.error), "page fault at {address:#x}: {frame:x?}");
}
