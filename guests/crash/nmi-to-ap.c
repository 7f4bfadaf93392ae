/*
 * The first CPU sends an NMI to the second, which halts with interrupts off. Gate 2 of the IDT of both is empty, and so are
 * those of all exceptions.
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
    disable_interrupts();
    for (;;)
        halt();
}

int main(void)
{
    set_gate(0x51, ipi_entry); /* the mistake: no gate 2 */
    load_idt();
    apic_enable();
    start_ap(ap_main);
    while (!ap_is_up)
        ;
    short_delay();
    apic_send(AP_ID, ICR_NMI);
    while (!acknowledged)
        ;
    return done();
}
