/*
 * The second CPU writes to 0x40000000, where no page is mapped, and has no IDT. The first only waits for it.
 */
#include "smp.h"

static volatile int ready;

static void ap_main(void)
{
    *(volatile int *)0x40000000 = 1; /* the mistake */
    ready = 1;
    for (;;)
        halt();
}

int main(void)
{
    load_idt();
    apic_enable();
    start_ap(ap_main);
    while (!ready)
        ;
    return done();
}
