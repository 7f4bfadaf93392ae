/*
 * The guest waits for three ticks of the timer of the local APIC, but started it for one. The tick is handled and ended as it
 * has to be.
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
    apic_timer_start(0x40, ONE_SHOT, 1000000); /* the mistake: PERIODIC */
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
