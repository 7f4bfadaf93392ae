/*
 * The interrupt of the clock (IRQ 8, vector 0x28) is unmasked in the slave 8259, but input 2 of the master, where the slave is
 * connected, is masked.
 */
#include "interrupts.h"

static volatile unsigned interrupts;

INTERRUPT_ENTRY(rtc_entry, rtc);

void rtc(void)
{
    interrupts++;
    rtc_acknowledge();
    vmm_out8(PIC_SLAVE, PIC_EOI);
    vmm_out8(PIC_MASTER, PIC_EOI);
}

int main(void)
{
    set_gate(0x28, rtc_entry);
    load_idt();
    pic_init(0x20, 0xff, 0xfe); /* the mistake: the master's mask must be 0xfb */
    rtc_start();
    pic_wait_for_request(PIC_SLAVE, 0);
    while (interrupts < 3)
        wait_for_interrupt();
    return done();
}
