/*
 * Waits for a device that is not there. On a PC, bit 1 of port 0x64 tells that the keyboard controller is busy. Here
 * nothing answers, so reads give all ones, and the controller seems busy for ever. Drivers count their attempts.
 */
        .globl _start
_start:
1:      inb     $0x64, %al
        testb   $2, %al
        jnz     1b
        hlt
