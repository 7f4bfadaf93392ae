/*
 * The first CPU sends INIT to the second, but no SIPI, so the second never runs. The first waits for it.
 */
#include "smp.h"

static volatile int ready;

static void ap_main(void)
{
    ready = 1;
    for (;;)
        halt();
}

int main(void)
{
    load_idt();
    apic_enable();
    prepare_ap(ap_main);
    apic_send(AP_ID, ICR_INIT); /* the mistake: no SIPI follows */
    while (!ready)
        ;
    return done();
}
