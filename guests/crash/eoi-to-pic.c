/*
 * The handler of the timer of the local APIC sends its end of interrupt (EOI) to the 8259: vector 0x40 stays in service in the
 * local APIC.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    vmm_out8(PIC_MASTER, PIC_EOI); /* the mistake: the interrupt came from the local APIC */
}

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 1000000);
    enable_interrupts();
    while (ticks < 3)
        ;
    return done();
}
