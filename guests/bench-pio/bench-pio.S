/*
 * A loop of port writes, to time what one exit costs from end to end.
 *
 * Nothing answers at port 0x80, so no device's work is in the time. RDI holds the number of writes; the TOML file presets
 * it.
 */

        .globl _start
_start:
        testq   %rdi, %rdi
        jz      2f
1:      outb    %al, $0x80
        decq    %rdi
        jnz     1b
2:      hlt
