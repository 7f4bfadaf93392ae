/*
 * The handler of the 8254 timer sends no end of interrupt (EOI) to the 8259: IRQ 0 (vector 0x20) stays in service, and no
 * further tick is delivered.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++; /* the mistake: no EOI */
}

int main(void)
{
    set_gate(0x20, timer_entry);
    load_idt();
    pic_init(0x20, 0xfe, 0xff);
    pit_start(2000);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
