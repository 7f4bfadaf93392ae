/*
 * A call through a null pointer, where page 0 is mapped. It is all zeros, and 00 00 is an instruction: add %al, (%rax).
 * So the CPU slides over them, up to the first byte that is not zero: that of a descriptor in the GDT. The crash is
 * there, and only the stack still knows where the call was.
 */
        .globl _start
_start:
        xorl    %eax, %eax              # AL = 0: the additions change nothing
        call    *%rax
        hlt
