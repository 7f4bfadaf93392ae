/*
 * The handler of the 8254 timer, whose interrupts come through the 8259, sends its end of interrupt (EOI) to the local APIC:
 * IRQ 0 (vector 0x20) stays in service in the 8259.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    apic_eoi(); /* the mistake: the interrupt came through the 8259 */
}

int main(void)
{
    set_gate(0x20, timer_entry);
    load_idt();
    pic_init(0x20, 0xfe, 0xff);
    pit_start(2000);
    enable_interrupts();
    while (ticks < 3)
        ;
    return done();
}
