/*
 * A write to 0xd0000000: the page tables know the address, but neither memory nor a device is behind it.
 */
        .globl _start
_start:
        movl    $0xd0000000, %eax
        movl    $42, (%rax)
        hlt
