/*
 * A read from what is no address: bits 48 to 63 must repeat bit 47. No page table is asked: #GP, with error code 0 and
 * nothing in CR2. The address has to be found in the instruction's registers.
 */
        .globl _start
_start:
        movabsq $0x800000000000, %rax
        movq    (%rax), %rbx
        hlt
