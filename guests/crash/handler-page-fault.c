/*
 * The handler of the timer of the local APIC (vector 0x40) reads through a pointer to 0x40000000, where no page is mapped.
 * There are no gates for exceptions.
 */
#include "interrupts.h"

struct task {
    uint64_t registers[2];
    volatile unsigned time_left;
};

struct task *volatile current_task = (struct task *)0x40000000; /* the mistake: no task is there */

static volatile unsigned ticks;

INTERRUPT_ENTRY(timer_entry, timer);

void timer(void)
{
    ticks += current_task->time_left;
    apic_eoi();
}

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 1000000);
    while (ticks < 3)
        wait_for_interrupt();
    return done();
}
