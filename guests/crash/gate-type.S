/*
 * A gate of the wrong type. It is present and its address is right, but type 2 is an LDT, and an IDT may hold only
 * task, interrupt and trap gates. So the #UD is not delivered; a #GP that names the gate comes in its place.
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
        gate    handler, flags=0x82     # 0x8e would be right
        no_gates 25
pointer:
        .word   pointer - idt - 1
        .long   idt
