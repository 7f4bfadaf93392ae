/*
 * A user program looks at the IDT. The page is mapped, but its U/S bit is clear: for ring 0 only.
 */
        .globl _start
_start:
        movq    0x2000, %rax
1:      jmp     1b
