/*
 * A handler of #DF that itself faults. It runs on interrupt stack 1 (IST 1), which begins anew each time, so that the
 * storm never meets the end of a stack.
 *
 * The gate for #UD is all zeros: #GP, whose gate is all zeros too: #DF. Its handler raises #UD, and so on.
 */
#include "gate.h"

        .globl _start
_start:
        movq    $stack, 0x3024          # the TSS is at 0x3000; IST 1 at offset 0x24 (SDM vol. 3, 7.7)
        lidt    pointer
        ud2

handler:
        ud2

        .data
        .balign 16
idt:    no_gates 8
        gate    handler, ist=1
        no_gates 23
pointer:
        .word   pointer - idt - 1
        .quad   idt

        .bss
        .balign 16
        .skip   4096
stack:
