/*
 * The 8259 has the first vector that a BIOS gives it, 8, so IRQ 0 of the 8254 timer arrives as vector 8, which is #DF. The
 * handler for #DF drops an error code, which an interrupt does not push: IRETQ takes CS for RIP and RFLAGS for CS, which is a
 * #GP. It has no gate, so it becomes a true #DF, whose handler returns to the same IRETQ, for ever.
 */
#include "interrupts.h"

volatile unsigned double_faults;

void double_fault_entry(void);

__asm__(".globl double_fault_entry\n"
        ".type double_fault_entry, @function\n"
        "double_fault_entry:\n"
        "    incl double_faults(%rip)\n"
        "    addq $8, %rsp\n" /* the error code of #DF */
        "    iretq\n"
        ".size double_fault_entry, . - double_fault_entry");

int main(void)
{
    set_gate(8, double_fault_entry);
    load_idt();
    pic_init(8, 0xfe, 0xff); /* the mistake: vectors 0 to 31 belong to exceptions */
    pit_start(2000);
    enable_interrupts();
    while (double_faults < 1000)
        ;
    return done();
}
