/*
 * Code made at run time, in a page that must not be executed: what a JIT compiler does when it forgets to ask for it.
 *
 * Writing works, the call works, the fetch does not: bit 63 of the entry, XD, forbids it. The error code of the #PF has
 * bit 4 set, instruction fetch.
 */
        .globl _start
_start:
        movb    $0xc3, 0x40000000       # a function of one instruction: ret
        call    0x40000000
        hlt
