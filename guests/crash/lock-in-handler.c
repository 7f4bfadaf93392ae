/*
 * The timer of the local APIC (vector 0x40) interrupts a function that holds a lock, and its handler waits for the same lock on
 * the same CPU.
 */
#include "lock.h"

static volatile unsigned ticks;
static volatile unsigned shared;
static volatile int lock;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    acquire(&lock);
    ticks++;
    release(&lock);
    apic_eoi();
}

NOINLINE static void work(void)
{
    acquire(&lock); /* the mistake: interrupts are on while the lock is held */
    for (int i = 0; i < 100000; i++)
        shared++;
    release(&lock);
}

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 3000000);
    enable_interrupts();
    while (ticks < 3)
        work();
    return done();
}
