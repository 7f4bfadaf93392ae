/*
 * A jump to itself. No exit ever happens: only a time limit ends it.
 */
        .globl _start
_start:
        jmp     _start
