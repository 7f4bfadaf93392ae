/*
 * Real mode has an IDTR too, and LIDT changes it. With a limit of 0 no vector lies inside the table. PCs were rebooted
 * this way: the CPU shuts down, and the board answers with a reset.
 */
        .code16
        .globl _start
_start:
        lidt    no_table
        ud2
        hlt

        .data
no_table:
        .word   0
        .long   0
