/*
 * A Multiboot 2 header: tags, each at a multiple of 8. The last but one is optional, so that a loader without a display may
 * pass over it; with DEMAND_DISPLAY defined it is not, and a loader without a display has to refuse the kernel.
 */
#define MAGIC 0xe85250d6
#define I386 0
#define OPTIONAL 1

        .code32
        .section .text.start, "ax"
        .globl  _start
        .align  8
header: .long   MAGIC, I386, header_end - header, -(MAGIC + I386 + (header_end - header))

        .align  8
        .short  1, 0                    /* information request: command line, memory, map, sections */
        .long   24, 1, 4, 6, 9

        .align  8
        .short  6, 0                    /* modules on pages */
        .long   8

        .align  8
#ifdef DEMAND_DISPLAY
        .short  5, 0
#else
        .short  5, OPTIONAL             /* a framebuffer of 1024 by 768, 32 bits */
#endif
        .long   20, 1024, 768, 32

        .align  8
        .short  0, 0                    /* end */
        .long   8
header_end:

_start:
        mov     $stack_top, %esp
        push    %ebx
        push    %eax
        call    kernel
1:      hlt
        jmp     1b

        .bss
        .align  16
        .skip   4096
stack_top:
