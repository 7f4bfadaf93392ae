/*
 * A write to 0xd0000000, where neither memory nor a device is. It runs in protected mode without paging, where no page
 * table stops it before the bus.
 */
        .globl _start
_start:
        movl    $0xd0000000, %eax
        movl    $42, (%eax)
        hlt
