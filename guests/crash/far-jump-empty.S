/*
 * A far jump through an empty descriptor. The guest's GDT has four places, and nobody filled the last one. Zeros are
 * no code segment, so the jump raises #GP with the selector as error code.
 */
        .globl _start
_start:
        lgdt    pointer
        ljmp    $0x18, $1f              # 0x08 would be right
1:      hlt

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # 0x08: base 0, limit 4 GiB, code
        .quad   0x00cf93000000ffff      # 0x10: base 0, limit 4 GiB, writable data
        .quad   0                       # 0x18: empty
pointer:
        .word   pointer - gdt - 1
        .long   gdt
