/*
 * Recursion without end, and below the stack lie the page tables. Each call pushes 8 bytes; no limit stops it, so the
 * return addresses go over the page tables, until the CPU needs an entry that has become one of them.
 *
 * The return address is even, so as an entry it is not present. A page without a mapping below the stack, a guard page,
 * would have shown the mistake before any harm was done.
 */
        .globl _start
_start:
        call    recurse
        hlt
        nop
recurse:
        call    recurse
        ret
