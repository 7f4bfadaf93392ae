/*
 * A handler (vector 0x31, which the CPU sends itself) sets the task priority of the local APIC to 0xf0 and waits with
 * interrupts on for a tick of its timer. Vector 0x60 has a higher priority than 0x31, but not than the task.
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

    apic_write(APIC_TPR, 0xf0); /* the mistake: must be below 0x60 */
    enable_interrupts();
    while (ticks == start)
        ;
    disable_interrupts();
    apic_write(APIC_TPR, 0);
    apic_eoi();
}

int main(void)
{
    set_gate(0x60, timer_entry);
    set_gate(0x31, self_entry);
    load_idt();
    apic_enable();
    enable_interrupts();
    apic_timer_start(0x60, PERIODIC, 3000000);
    apic_write(APIC_ICR_LOW, ICR_SELF | 0x31);
    while (ticks < 3)
        ;
    return done();
}
