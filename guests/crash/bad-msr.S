/*
 * WRMSR to a model-specific register that no model has: #GP.
 */
        .globl _start
_start:
        movl    $0xdeadbeef, %ecx       # its number; EDX:EAX would be its value
        xorl    %eax, %eax
        xorl    %edx, %edx
        wrmsr
        hlt
