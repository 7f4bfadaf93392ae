//! The two 8259A interrupt controllers of a PC (Intel 8259A data sheet).

use template_kernel::port::out8;

use super::FIRST_IRQ;

/// Command and data ports of the first controller, then of the second.
const COMMAND: [u16; 2] = [0x20, 0xa0];
const DATA: [u16; 2] = [0x21, 0xa1];

const END_OF_INTERRUPT: u8 = 0x20;

/// Sets both controllers up, with only line 0, the timer, open. At power-on they would use vectors of the CPU's
/// exceptions.
pub(crate) fn start() {
    write(COMMAND, [0x11, 0x11]); // ICW1: begin, edge-triggered, cascaded, with ICW4
    write(DATA, [FIRST_IRQ, FIRST_IRQ + 8]); // ICW2: vectors
    write(DATA, [1 << 2, 2]); // ICW3: the second controller is at line 2 of the first
    write(DATA, [1, 1]); // ICW4: 8086 mode
    write(DATA, [!1, !0]); // OCW1: what is masked
}

/// Closes all lines.
pub(crate) fn mask_all() {
    write(DATA, [!0, !0]);
}

/// Tells the first controller that its interrupt has been handled.
pub(super) fn end_of_interrupt() {
    // SAFETY: a controller's port, whose work is ours.
    unsafe { out8(COMMAND[0], END_OF_INTERRUPT) };
}

fn write(ports: [u16; 2], values: [u8; 2]) {
    for (port, value) in ports.into_iter().zip(values) {
        // SAFETY: as above; interrupts are off while the kernel does this.
        unsafe { out8(port, value) };
    }
}
