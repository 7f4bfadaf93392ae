/*
 * The second CPU takes a lock and halts with interrupts off. The first waits for the lock.
 */
#include "lock.h"
#include "smp.h"

static volatile int lock;
static volatile int is_held;

static void ap_main(void)
{
    acquire(&lock);
    is_held = 1;
    disable_interrupts();
    for (;;)
        halt(); /* the mistake: the lock is not released */
}

int main(void)
{
    load_idt();
    apic_enable();
    start_ap(ap_main);
    while (!is_held)
        ;
    acquire(&lock);
    return done();
}
