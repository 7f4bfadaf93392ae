/*
 * A code segment as stack. SS must be writable data, and 0x08 is code: #GP with the selector as error code.
 */
        .globl _start
_start:
        movw    $0x08, %ax              # 0x10 would be right
        movw    %ax, %ss
        hlt
