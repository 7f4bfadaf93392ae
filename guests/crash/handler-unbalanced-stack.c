/*
 * The handler of the timer of the local APIC (vector 0x40) pushes RAX and does not pop it, so IRETQ takes RAX for RIP and RIP
 * for CS: #GP, for which there is no gate.
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
        "    iretq\n" /* the mistake: no popq %rax */
        ".size timer_entry, . - timer_entry");

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    enable_interrupts();
    apic_timer_start(0x40, PERIODIC, 1000000);
    while (ticks < 3)
        ;
    return done();
}
