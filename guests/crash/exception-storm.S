/*
 * A handler that returns to the instruction that faulted. After IRETQ the #UD comes again, and again. A handler for #UD
 * has to repair the cause, to step over the instruction or to stop the program.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        ud2
        hlt

handler:
        iretq

        .data
        .balign 16
idt:    no_gates 6
        gate    handler
        no_gates 25
pointer:
        .word   pointer - idt - 1
        .quad   idt
