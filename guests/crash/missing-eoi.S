/*
 * A timer whose handler does not tell the local APIC that the interrupt has ended (EOI): the first tick stays in service, and no other
 * one of its priority is delivered. The guest waits for three.
 */
#include "apic.h"
#include "gate.h"

#define VECTOR          0x40

        .globl _start
        .type _start, @function
_start:
        lidt    pointer
        movl    $APIC, %ebx
        start_apic_timer VECTOR
        sti
1:      hlt
        cmpl    $3, ticks
        jb      1b
        cli
        hlt
        .size _start, . - _start

        .type handler, @function
handler:
        incl    ticks
        iretq
        .size handler, . - handler

        .data
ticks:  .long   0
        .balign 16
idt:    no_gates VECTOR
        gate    handler
pointer:
        .word   pointer - idt - 1
        .quad   idt
