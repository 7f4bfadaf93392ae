/*
 * A read from port 0x1234, where no device is.
 */
        .globl _start
_start:
        movw    $0x1234, %dx
        inb     %dx, %al
        hlt
