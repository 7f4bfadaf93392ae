/*
 * A gate that leads through a data segment. A handler runs in the code segment that its gate names, and 0x10 is the
 * segment of data and stack. The #UD is not delivered; #GP(0x10) comes in its place.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        ud2

handler:
        hlt

        .data
        .balign 8
idt:    no_gates 6
        gate    handler, selector=0x10  # 0x08 would be right
        no_gates 25
pointer:
        .word   pointer - idt - 1
        .long   idt
