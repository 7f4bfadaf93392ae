/*
 * The first CPU sends the second an interrupt of vector 0x51 and waits for its answer, as for a TLB shootdown. The second waits
 * in a loop with interrupts off, until the first has its answer.
 */
#include "smp.h"

static volatile int ap_is_up;
static volatile int acknowledged;
static volatile int stop;

INTERRUPT_ENTRY(ipi_entry, ipi);

void ipi(void)
{
    acknowledged = 1;
    apic_eoi();
}

static void ap_main(void)
{
    load_idt();
    apic_enable();
    ap_is_up = 1;
    while (!stop) /* the mistake: interrupts are off here */
        ;
    for (;;)
        halt();
}

int main(void)
{
    set_gate(0x51, ipi_entry);
    load_idt();
    apic_enable();
    start_ap(ap_main);
    while (!ap_is_up)
        ;
    apic_send(AP_ID, ICR_ASSERT | 0x51);
    while (!acknowledged)
        ;
    stop = 1;
    return done();
}
