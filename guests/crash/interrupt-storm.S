/*
 * An interrupt handler that never makes its source quiet: here it sends itself the next interrupt, as a level-triggered
 * line does whose device nobody served. The CPU leaves the handler and is back in it; the loop below makes no progress.
 */
#include "apic.h"
#include "gate.h"

#define TO_SELF         0x40000         /* edge, fixed */
#define VECTOR          0x30

        .globl _start
_start:
        lidt    pointer
        movl    $APIC, %ebx
        movl    $0x1ff, APIC_SPURIOUS(%rbx)
        movl    $(TO_SELF | VECTOR), APIC_ICR_LOW(%rbx)
        sti
1:      incq    %rcx
        jmp     1b

handler:
        movl    $(TO_SELF | VECTOR), APIC_ICR_LOW(%rbx) /* before the end of this one, so one is always due */
        movl    $0, APIC_EOI(%rbx)
        iretq

        .data
        .balign 16
idt:    no_gates VECTOR
        gate    handler
pointer:
        .word   pointer - idt - 1
        .quad   idt
