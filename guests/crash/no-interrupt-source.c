/*
 * The guest halts with interrupts on and waits for ticks, but started no timer.
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
    pic_init(0x20, 0xff, 0xff);
    apic_enable();
    while (ticks < 3) /* the mistake: no apic_timer_start */
        wait_for_interrupt();
    return done();
}
