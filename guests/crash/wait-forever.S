/*
 * Waits for a byte in memory that another CPU or an interrupt handler should write. There is neither.
 */
        .globl _start
_start:
1:      cmpb    $0, ready
        pause                           # tells the CPU that this is such a loop
        je      1b
        hlt

        .data
ready:  .byte   0
