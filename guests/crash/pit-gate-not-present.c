/*
 * The gate for the 8254 timer (IRQ 0, vector 0x20) has handler, segment and type, but its P bit is clear. There are no gates
 * for exceptions.
 */
#include "interrupts.h"

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks++;
    vmm_out8(PIC_MASTER, PIC_EOI);
}

NOINLINE static void wait_for_ticks(unsigned number)
{
    enable_interrupts();
    while (ticks < number)
        ;
}

int main(void)
{
    set_gate_fields(0x20, timer_entry, KERNEL_CODE, 0, 0x0e); /* the mistake: 0x8e has the P bit */
    load_idt();
    pic_init(0x20, 0xfe, 0xff);
    pit_start(2000);
    wait_for_ticks(3);
    return done();
}
