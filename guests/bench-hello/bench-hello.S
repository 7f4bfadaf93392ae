/*
 * One byte to the debug console, then HLT: what is left of a run's time is the start and the end of the machine.
 *
 * The floor programs of `cargo xtask bench` (xtask/bench/) are linked with this file and copy it into their guest's
 * memory, so it is free of addresses. `guest_end` tells them how much to copy.
 */

        .globl _start, guest_end
_start:
        movb    $'!', %al
        outb    %al, $0xe9
        hlt
guest_end:
