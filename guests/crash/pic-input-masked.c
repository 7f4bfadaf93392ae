/*
 * The 8254 timer counts and interrupts are on, but IRQ 0 is masked in the 8259.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    vmm_out8(PIC_MASTER, PIC_EOI);
}

int main(void)
{
    set_gate(0x20, timer_entry);
    load_idt();
    pic_init(0x20, 0xff, 0xff); /* the mistake: the master's mask must be 0xfe */
    pit_start(2000);
    pic_wait_for_request(PIC_MASTER, 0);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
