/*
 * A timer whose handler does not tell the local APIC that the interrupt has ended (EOI): the first tick stays in service, and no other
 * one of its priority is delivered. The guest waits for three.
 */
#include "gate.h"

#define APIC            0xfee00000
#define APIC_SPURIOUS   0x0f0           /* bit 8 switches the APIC on */
#define APIC_LVT_TIMER  0x320
#define APIC_COUNT      0x380           /* initial count: writing it starts the timer */
#define APIC_DIVIDE     0x3e0
#define DIVIDE_BY_1     0xb
#define PERIODIC        0x20000
#define VECTOR          0x40

        .globl _start
        .type _start, @function
_start:
        lidt    pointer
        movl    $APIC, %ebx
        movl    $0x1ff, APIC_SPURIOUS(%rbx)
        movl    $DIVIDE_BY_1, APIC_DIVIDE(%rbx)
        movl    $(PERIODIC | VECTOR), APIC_LVT_TIMER(%rbx)
        movl    $1000000, APIC_COUNT(%rbx)
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
