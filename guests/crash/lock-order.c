/*
 * Two CPUs take two locks in opposite order: the first has lock_a and waits for lock_b, the second has lock_b and waits for
 * lock_a.
 */
#include "lock.h"
#include "smp.h"

static volatile int lock_a;
static volatile int lock_b;
static volatile int a_is_held;
static volatile int b_is_held;

static void ap_main(void)
{
    acquire(&lock_b); /* the mistake: main takes lock_a first */
    b_is_held = 1;
    while (!a_is_held)
        ;
    acquire(&lock_a);
    for (;;)
        halt();
}

int main(void)
{
    load_idt();
    apic_enable();
    start_ap(ap_main);
    acquire(&lock_a);
    a_is_held = 1;
    while (!b_is_held)
        ;
    acquire(&lock_b);
    return done();
}
