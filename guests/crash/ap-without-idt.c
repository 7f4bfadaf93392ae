/*
 * Each of the two CPUs has the timer of its own local APIC, but the second loaded no IDT: its IDTR has the values from reset,
 * base 0 and limit 0xffff, so its gates are read from the bottom of memory.
 */
#include "smp.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    apic_eoi();
}

static void ap_main(void)
{
    apic_enable(); /* the mistake: no load_idt */
    apic_timer_start(0x40, PERIODIC, 2000000);
    for (;;)
        wait_for_interrupt();
}

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    start_ap(ap_main);
    apic_timer_start(0x40, PERIODIC, 2000000);
    while (ticks < 100)
        wait_for_interrupt();
    return done();
}
