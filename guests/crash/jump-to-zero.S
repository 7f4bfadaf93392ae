/*
 * A call through a null pointer, where page 0 is not mapped. Kernels leave it so, in order that the mistake shows at
 * once: as #PF with an address close to 0.
 */
        .globl _start
_start:
        xorl    %eax, %eax
        call    *%rax
        hlt
