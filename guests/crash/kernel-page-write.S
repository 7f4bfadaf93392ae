/*
 * A user program tries to overwrite the IDT. The U/S bit of its page is clear, and that is all that stands between a
 * user program and the kernel.
 */
        .globl _start
_start:
        movl    $0, 0x2000
1:      jmp     1b
