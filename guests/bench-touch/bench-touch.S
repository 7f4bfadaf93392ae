/*
 * Reads one word of each of RDI pages from address RSI on, and ends: to time how memory gets to where it is needed.
 *
 * It becomes a part of the files that `cargo xtask bench load` makes, and its floor program (xtask/bench/load.c) is linked
 * with it, so it is free of addresses.
 */
#include "vmm.h"

        .globl _start, guest_end
_start:
        testq   %rdi, %rdi
        jz      2f
1:      movq    (%rsi), %rax
        addq    $0x1000, %rsi
        decq    %rdi
        jnz     1b
2:      xorl    %eax, %eax
        outb    %al, $VMM_DEBUG_EXIT
guest_end:
