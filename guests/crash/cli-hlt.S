/*
 * Interrupts off, then wait for one: the CPU sleeps for ever. Kernels do this when they give up.
 */
        .globl _start
_start:
        cli
1:      hlt
        jmp     1b
