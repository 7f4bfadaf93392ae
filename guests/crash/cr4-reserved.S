/*
 * A reserved bit in CR4: #GP. The same happens with a feature that the CPU does not have; ask CPUID first.
 */
        .globl _start
_start:
        movl    %cr4, %eax
        orl     $0x80000000, %eax       # bit 31 has no meaning
        movl    %eax, %cr4
        hlt
