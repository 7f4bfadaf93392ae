/*
 * The first CPU sends an interrupt of vector 0x51 to the APIC ID 7 and waits for the answer. No CPU has this ID: the second,
 * which halts with interrupts on, has ID 1.
 */
#include "smp.h"

static volatile int ap_is_up;
static volatile int acknowledged;

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
    for (;;)
        wait_for_interrupt();
}

int main(void)
{
    set_gate(0x51, ipi_entry);
    load_idt();
    apic_enable();
    start_ap(ap_main);
    while (!ap_is_up)
        ;
    apic_send(7, ICR_ASSERT | 0x51); /* the mistake: AP_ID is 1 */
    while (!acknowledged)
        ;
    return done();
}
