/*
 * A jump to what is no address: bits 48 to 63 must repeat bit 47. It raises #GP and not #PF, so CR2 says nothing.
 * Intel CPUs raise it at the jump; AMD's jump first, and raise it at the target.
 */
        .globl _start
_start:
        movabsq $0x800000000000, %rax
        jmp     *%rax
