/*
 * An exception without a stack. The gates are right and there is a handler, but to call it the CPU pushes a frame of
 * five words, and RSP points to where no memory is.
 *
 * In ring 0 an exception keeps the stack that it finds. Kernels give #DF a stack of its own (IST) for just this case.
 */
#include "gate.h"

        .globl _start
_start:
        lidt    pointer
        movl    $0x40000000, %esp       # nothing is mapped there
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
