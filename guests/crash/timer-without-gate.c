/*
 * Interrupts are enabled and the timer of the local APIC raises vector 0x40, but the IDT has no gate for it: the handler was
 * installed for vector 0x41. There are no gates for exceptions either.
 */
#include "interrupts.h"

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    apic_eoi();
}

NOINLINE static void wait_for_tick(void)
{
    enable_interrupts();
    for (;;)
        cpu_pause();
}

int main(void)
{
    set_gate(0x41, timer_entry); /* the mistake: the timer's vector is 0x40 */
    load_idt();
    apic_enable();
    apic_timer_start(0x40, ONE_SHOT, 500000);
    wait_for_tick();
    return done();
}
