/*
 * The timer of the local APIC is started while the APIC is disabled: bit 8 of the spurious-interrupt vector register is clear,
 * which masks all entries of the local vector table.
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
    apic_write(APIC_SPURIOUS, 0xff); /* the mistake: 0x1ff enables the APIC */
    apic_timer_start(0x40, PERIODIC, 1000000);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
