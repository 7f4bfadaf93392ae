/*
 * A gate without its P bit: everything else in it is right. The #UD raises #NP instead, and that has no gate at all.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        ud2

handler:
        hlt

        .data
        .balign 16
idt:    no_gates 6
        gate    handler, flags=0x0e     # 0x8e would be right
        no_gates 25
pointer:
        .word   pointer - idt - 1
        .quad   idt
