/*
 * The 8254 timer counts and interrupts are on, but its input of the IOAPIC is masked.
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
    set_gate(0x50, timer_entry);
    load_idt();
    pic_init(0x20, 0xff, 0xff);
    apic_enable();
    ioapic_set(0, IOAPIC_MASKED | 0x50); /* the mistake: the mask bit */
    pit_start(2000);
    enable_interrupts();
    while (ticks < 3)
        ;
    return done();
}
