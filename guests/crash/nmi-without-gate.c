/*
 * The CPU sends itself an NMI through the interrupt command register of its local APIC, but gate 2 is empty. Interrupts are
 * off, which does not hold back an NMI. There are no gates for exceptions either.
 */
#include "interrupts.h"

int main(void)
{
    load_idt(); /* the mistake: no gate 2 */
    apic_enable();
    apic_send(0, ICR_NMI);
    for (int i = 0; i < 100000; i++)
        cpu_pause();
    return done();
}
