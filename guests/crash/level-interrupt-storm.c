/*
 * The handler of the serial port (IOAPIC input 4, level-triggered, vector 0x50) sends its end of interrupt (EOI), but never
 * asks the port for the cause, so the line stays high and the interrupt comes again at once.
 */
#include "interrupts.h"

static volatile unsigned interrupts;

INTERRUPT_ENTRY(serial_entry, serial);

void serial(void)
{
    interrupts++; /* the mistake: the port is not read */
    apic_eoi();
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
    for (volatile long i = 0; i < 10000000000; i++)
        ;
    return done();
}
