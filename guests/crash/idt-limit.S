/*
 * An IDT whose limit is too small. Its 16 gates are right, but the limit was computed for gates of 8 bytes, as they are
 * in 32-bit code. Those of long mode have 16, so for the CPU the table ends behind gate 7.
 *
 * A gate behind the limit is as good as none. #PF is vector 14, the #GP that follows is 13, and the #DF for both is 8.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        movq    0x40000000, %rax        # no page there: #PF
        hlt

handler:
        hlt

        .data
        .balign 16
idt:    .rept   16
        gate    handler
        .endr
pointer:
        .word   16 * 8 - 1              # 16 * 16 - 1 would be right
        .quad   idt
