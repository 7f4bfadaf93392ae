/*
 * Interrupts are enabled while the timer of the local APIC runs, but no IDT was loaded: the first tick has no gate, and neither has any
 * exception that this raises.
 */
#include "apic.h"

#define VECTOR          0x40

        .globl _start
        .type _start, @function
_start:
        movl    $APIC, %ebx
        start_apic_timer VECTOR
        sti
1:      incq    %rcx
        jmp     1b
        .size _start, . - _start
