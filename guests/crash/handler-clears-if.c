/*
 * The handler of the timer of the local APIC (vector 0x40) clears IF in the RFLAGS that it returns to: after the first tick the
 * guest waits with interrupts off.
 */
#include "interrupts.h"

volatile unsigned ticks;

void timer_entry(void);

__asm__(".globl timer_entry\n"
        ".type timer_entry, @function\n"
        "timer_entry:\n"
        "    pushq %rax\n"
        "    incl ticks(%rip)\n"
        "    movl $0xfee000b0, %eax\n" /* EOI */
        "    movl $0, (%rax)\n"
        "    popq %rax\n"
        "    andl $~0x200, 16(%rsp)\n" /* the mistake: IF in the saved RFLAGS */
        "    iretq\n"
        ".size timer_entry, . - timer_entry");

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 1000000);
    enable_interrupts();
    while (ticks < 3)
        ;
    return done();
}
