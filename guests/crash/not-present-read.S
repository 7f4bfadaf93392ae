/*
 * A read through a wild pointer. The memory ends at 0x200000 and so do the page tables: there is no page at 0x40000000.
 *
 * The page fault (#PF) that follows would do no harm to a guest that had a handler. This one never filled its IDT.
 */
        .globl _start
_start:
        movq    0x40000000, %rax
        hlt
