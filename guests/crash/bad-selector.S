/*
 * A selector behind the end of the GDT. The machine's GDT has six descriptors, 0x00 to 0x28; 0x38 is out of its limit.
 * Loading it raises #GP, with the selector as error code.
 */
        .globl _start
_start:
        movw    $0x38, %ax
        movw    %ax, %ds
        hlt
