/*
 * A write through a wild pointer, under 32-bit paging. Bit 1 of the #PF's error code tells it from a read.
 */
        .globl _start
_start:
        movl    $42, 0x40000000
        hlt
