/*
 * A Multiboot 1 header, and the way from its entry to C. The header is found by its magic number in the first 8 KiB of the
 * file; the loader enters 32-bit code with its own magic number in EAX and the information's address in EBX.
 *
 * With ADDRESSES defined, the header says itself where the file goes, and the file needs no format.
 */
#define MAGIC 0x1badb002
#define PAGE_ALIGN (1 << 0)
#define MEMORY_INFO (1 << 1)
#ifdef ADDRESSES
#define FLAGS (PAGE_ALIGN | MEMORY_INFO | 1 << 16)
#else
#define FLAGS (PAGE_ALIGN | MEMORY_INFO)
#endif

        .code32
        .section .text.start, "ax"
        .globl  _start
#ifdef ADDRESSES
image:
#endif
        .align  4
header: .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
#ifdef ADDRESSES
        .long   header, image, 0, image_end, _start
#endif

_start:
        mov     $stack_top, %esp        /* ESP is whatever the loader left */
        push    %ebx
        push    %eax
        call    kernel
1:      hlt
        jmp     1b

        .bss
        .align  16
        .skip   4096
stack_top:
