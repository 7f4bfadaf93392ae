/*
 * The handler of the clock (IRQ 8, vector 0x28) sends its end of interrupt (EOI) to the master 8259 only: IRQ 8 stays in
 * service in the slave.
 */
#include "interrupts.h"

static volatile unsigned interrupts;

INTERRUPT_ENTRY(rtc_entry, rtc);

void rtc(void)
{
    interrupts++;
    rtc_acknowledge();
    vmm_out8(PIC_MASTER, PIC_EOI); /* the mistake: the slave needs one too */
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
