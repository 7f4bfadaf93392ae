/*
 * The task priority of the local APIC is 0x80, so the timer's vector 0x40, which is of class 4, is held back.
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
    apic_write(APIC_TPR, 0x80); /* the mistake: must be below 0x40 */
    apic_timer_start(0x40, PERIODIC, 1000000);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
