/*
 * The gate for the timer of the local APIC (vector 0x40) switches to the stack IST 1, but the TSS has no address there: the
 * frame would be pushed below address 0. There are no gates for exceptions.
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
    set_gate_fields(0x40, timer_entry, KERNEL_CODE, 1, INTERRUPT_GATE); /* the mistake: IST 1 was never set up */
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 1000000);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
