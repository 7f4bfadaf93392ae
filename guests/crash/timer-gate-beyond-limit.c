/*
 * The timer of the local APIC raises vector 0x80. Its gate is filled in, but the IDT is loaded with a limit for 128 gates, so
 * it ends with gate 0x7f. There are no gates for exceptions.
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
    set_gate(0x80, timer_entry);
    load_idt_of(128); /* the mistake: gate 0x80 is the 129th */
    apic_enable();
    apic_timer_start(0x80, PERIODIC, 1000000);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
