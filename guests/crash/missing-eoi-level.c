/*
 * The handler of the serial port (IOAPIC input 4, level-triggered, vector 0x50) sends no end of interrupt (EOI) to the local
 * APIC.
 */
#include "interrupts.h"

static volatile unsigned interrupts;

INTERRUPT_ENTRY(serial_entry, serial);

void serial(void)
{
    interrupts++;
    serial_send('x'); /* the mistake: no EOI */
}

int main(void)
{
    set_gate(0x50, serial_entry);
    load_idt();
    pic_init(0x20, 0xff, 0xff);
    apic_enable();
    ioapic_set(SERIAL_LINE, IOAPIC_LEVEL | 0x50);
    enable_interrupts();
    serial_start();
    while (interrupts < 3)
        ;
    return done();
}
