/*
 * An exception, and RSP holds no address at all. Bits 48 to 63 of an address must repeat bit 47 (SDM vol. 1, 3.3.7.1).
 * The CPU cannot push the frame of the #UD and raises #SS, the stack fault, which has the same trouble.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        movabsq $0x900000000000, %rsp   # bit 47 is set, bits 48 to 63 are not
        ud2

handler:
        hlt

        .data
        .balign 16
idt:    .rept   32
        gate    handler
        .endr
pointer:
        .word   pointer - idt - 1
        .quad   idt
