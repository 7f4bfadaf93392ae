/*
 * A counting loop in ring 3 of long mode, to time how fast the host runs code that never exits.
 *
 * Two instructions a turn and no memory: with hardware virtualization, or where KVM runs ring 3 natively, it takes as long
 * as the same loop in a Linux process. RDI holds the number of turns; the TOML file presets it.
 */
#include "vmm.h"

        .globl _start
_start:
        testq   %rdi, %rdi
        jz      2f
1:      decq    %rdi
        jnz     1b
2:      xorl    %eax, %eax              # code 0
        movw    $(VMM_HYPERCALL + VMM_EXIT), %dx
        outl    %eax, %dx
        jmp     2b
