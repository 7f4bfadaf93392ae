/*
 * Triple fault: an exception with no handler, and no handler for that either.
 *
 * An IDT of zero length has a gate for nothing. UD2 raises #UD; its delivery fails with #GP, that makes a double fault,
 * whose delivery fails as well, and the CPU shuts down (SDM vol. 3, 6.15). KVM reports SHUTDOWN.
 */
        .globl _start
_start:
        lidt    no_idt(%rip)
        ud2

        .section .rodata
no_idt: .word   0
        .quad   0
