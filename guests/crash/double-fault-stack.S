/*
 * A stack for emergencies that nobody made. The gate of #DF asks for interrupt stack 1 (IST 1), which is what a kernel
 * should do; but its pointer in the TSS is still 0.
 *
 * PUSH meets no page: #PF. Its frame cannot be pushed there either: #DF. That one goes to the stack below address 0,
 * which is 0xfffffffffffffff8 and not mapped: the end.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        movl    $0x40000000, %esp       # nothing is mapped there
        pushq   %rax
        hlt

handler:
        hlt

        .data
        .balign 16
idt:    .rept   8
        gate    handler
        .endr
        gate    handler, ist=1
        .rept   23
        gate    handler
        .endr
pointer:
        .word   pointer - idt - 1
        .quad   idt
