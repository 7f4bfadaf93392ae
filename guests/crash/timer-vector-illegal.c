/*
 * The timer of the local APIC is started with vector 5. Vectors below 16 are illegal in an APIC: it delivers nothing.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    apic_eoi();
}

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(5, PERIODIC, 1000000); /* the mistake: the handler is for 0x40 */
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
