/*
 * The CPU sends itself an interrupt of vector 0x71, which has no gate. There are no gates for exceptions either.
 */
#include "interrupts.h"

NOINLINE static void send_to_self(uint32_t vector)
{
    apic_write(APIC_ICR_LOW, ICR_SELF | vector);
    for (int i = 0; i < 100; i++)
        cpu_pause();
}

int main(void)
{
    load_idt(); /* the mistake: no gate 0x71 */
    apic_enable();
    enable_interrupts();
    send_to_self(0x71);
    return done();
}
