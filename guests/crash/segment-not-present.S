/*
 * A segment whose descriptor lacks the P bit. Everything else in it is right: an operating system of the 286's days
 * would now fetch the segment from disk. Here nobody handles the #NP.
 */
        .globl _start
_start:
        lgdt    pointer
        movw    $0x18, %ax
        movw    %ax, %es
        hlt

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 0x08: base 0, limit 4 GiB, code
        .quad   0x00cf93000000ffff      # 0x10: base 0, limit 4 GiB, writable data
        .quad   0x00cf13000000ffff      # 0x18: as 0x10, without bit 47
pointer:
        .word   pointer - gdt - 1
        .long   gdt
