/*
 * The handler of the timer of the local APIC (vector 0x40) changes RBX without saving it. The function that it interrupts has a
 * pointer there, which is no canonical address afterwards: #GP, for which there is no gate.
 */
#include "interrupts.h"

volatile unsigned ticks;
uint64_t table[64];

void timer_entry(void);
void walk(void);

__asm__(".globl timer_entry\n"
        ".type timer_entry, @function\n"
        "timer_entry:\n"
        "    pushq %rax\n" /* the mistake: RBX is not saved */
        "    incl ticks(%rip)\n"
        "    movl $0xfee000b0, %eax\n" /* EOI */
        "    movl $0, (%rax)\n"
        "    movabsq $0x1234567800000000, %rbx\n"
        "    popq %rax\n"
        "    iretq\n"
        ".size timer_entry, . - timer_entry");

__asm__(".globl walk\n"
        ".type walk, @function\n"
        "walk:\n"
        "    leaq table(%rip), %rbx\n"
        "1:  movq (%rbx), %rax\n"
        "    jmp 1b\n"
        ".size walk, . - walk");

int main(void)
{
    set_gate(0x40, timer_entry);
    load_idt();
    apic_enable();
    apic_timer_start(0x40, PERIODIC, 1000000);
    enable_interrupts();
    walk();
    return done();
}
