/*
 * An IDT that is not where IDTR says. No page is mapped at 0x40000000, so the CPU cannot even read the gate: while it
 * delivers the #UD it meets a #PF, and while it delivers that the same one again.
 */
        .globl _start
_start:
        lidt    pointer
        ud2

        .section .rodata
pointer:
        .word   256 * 16 - 1
        .quad   0x40000000
