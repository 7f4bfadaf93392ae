/*
 * Interrupts are enabled while the timer of the local APIC runs, but no IDT was loaded: the first tick has no gate, and neither has any
 * exception that this raises.
 */
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
        movl    $APIC, %ebx
        movl    $0x1ff, APIC_SPURIOUS(%rbx)
        movl    $DIVIDE_BY_1, APIC_DIVIDE(%rbx)
        movl    $(PERIODIC | VECTOR), APIC_LVT_TIMER(%rbx)
        movl    $1000000, APIC_COUNT(%rbx)
        sti
1:      incq    %rcx
        jmp     1b
        .size _start, . - _start
