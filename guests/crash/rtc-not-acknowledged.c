/*
 * The handler of the clock (IRQ 8, vector 0x28) does not read register C, so the clock raises no second interrupt. Both 8259s
 * get their EOI.
 */
#include "interrupts.h"

static volatile unsigned interrupts;

INTERRUPT_ENTRY(rtc_entry, rtc);

void rtc(void)
{
    interrupts++; /* the mistake: no rtc_acknowledge */
    vmm_out8(PIC_SLAVE, PIC_EOI);
    vmm_out8(PIC_MASTER, PIC_EOI);
}

int main(void)
{
    set_gate(0x28, rtc_entry);
    load_idt();
    pic_init(0x20, 0xfb, 0xfe);
    rtc_start();
    while (interrupts < 3)
        wait_for_interrupt();
    return done();
}
