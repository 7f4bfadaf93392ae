/*
 * SSE without CR4.OSFXSR. By this bit a kernel promises to save the XMM registers when it switches tasks; without the
 * promise each SSE instruction is #UD. Compilers use SSE for 64-bit code even where no source says so.
 */
        .globl _start
_start:
        movaps  %xmm1, %xmm0
        hlt
