/*
 * Registers of the local APIC (SDM vol. 3, table 11-1), for assembly and C. A configuration of a paged mode maps APIC at its own
 * address.
 */
#define APIC            0xfee00000
#define APIC_TPR        0x080           /* task priority */
#define APIC_EOI        0x0b0           /* end of interrupt */
#define APIC_SPURIOUS   0x0f0           /* bit 8 switches the APIC on */
#define APIC_ICR_LOW    0x300           /* interrupt command: writing it sends */
#define APIC_ICR_HIGH   0x310           /* bits 24 to 31: APIC ID of the destination */
#define APIC_LVT_TIMER  0x320
#define APIC_INITIAL    0x380           /* initial count: writing it starts the timer */
#define APIC_DIVIDE     0x3e0
#define DIVIDE_BY_1     0xb
#define PERIODIC        (1 << 17)

#ifdef __ASSEMBLER__
/* Switches on the APIC, whose address is in %rbx, and its timer: an interrupt with this vector each millisecond. */
.macro  start_apic_timer vector
        movl    $0x1ff, APIC_SPURIOUS(%rbx)
        movl    $DIVIDE_BY_1, APIC_DIVIDE(%rbx)
        movl    $(PERIODIC | \vector), APIC_LVT_TIMER(%rbx)
        movl    $1000000, APIC_INITIAL(%rbx)
.endm
#endif
