/*
 * The guest waits in a loop for three ticks of the timer of the local APIC and never enables interrupts.
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
    disable_interrupts();
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 1000000);
    while (ticks < 3) /* the mistake: there was no STI */
        ;
    return done();
}
