/*
 * The handler of the 8254 timer (IRQ 0, vector 0x20) sends a specific end of interrupt (EOI) for input 1 of the 8259, so input
 * 0 stays in service.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    vmm_out8(PIC_MASTER, 0x61); /* the mistake: 0x60 is the specific EOI for input 0 */
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
