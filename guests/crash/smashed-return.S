/*
 * A buffer overflow. A name of 24 letters goes into a buffer of 16 bytes; the last 8 replace the return address, and
 * RET goes to 0x4141414141414141. That is no address: bits 48 to 63 must repeat bit 47.
 */
        .globl _start
_start:
        call    greet
        hlt

greet:
        subq    $16, %rsp               # the buffer; above it lies the return address
        movq    %rsp, %rdi
        movl    $name, %esi
        movl    $24, %ecx
        cld
        rep movsb
        addq    $16, %rsp
        ret

        .section .rodata
name:   .ascii  "AAAAAAAAAAAAAAAAAAAAAAAA"
