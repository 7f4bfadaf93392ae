/*
 * A handler (vector 0x4f, which the CPU sends itself) waits with interrupts on for a tick of the timer of the local APIC
 * (vector 0x40), before it sends its end of interrupt (EOI). The timer has a lower priority than the vector in service, so it
 * is held back.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    apic_eoi();
}

INTERRUPT_ENTRY(self_entry, self);

void self(void)
{
    unsigned start = ticks;

    enable_interrupts();
    while (ticks == start) /* the mistake: the EOI comes after this */
        ;
    disable_interrupts();
    apic_eoi();
}

int main(void)
{
    set_gate(0x40, timer_entry);
    set_gate(0x4f, self_entry);
    load_idt();
    apic_enable();
    enable_interrupts();
    apic_timer_start(0x40, PERIODIC, 30000000);
    apic_write(APIC_ICR_LOW, ICR_SELF | 0x4f);
    while (ticks < 3)
        ;
    return done();
}
