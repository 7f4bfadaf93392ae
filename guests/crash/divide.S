/*
 * A division by zero, and no handler for vector 0.
 */
        .globl _start
_start:
        movl    $1, %eax
        xorl    %edx, %edx
        xorl    %ecx, %ecx
        divl    %ecx                    # EDX:EAX / ECX
        hlt
