/*
 * Recursion without end. Below the stack is nothing: the call that crosses its end raises #PF, and as the CPU cannot
 * push the frame of the #PF there either, neither a handler nor #DF could have helped without a stack of their own.
 */
        .globl _start
_start:
        movl    $10, %edi
        call    factorial
        hlt

factorial:
        pushq   %rdi
        decl    %edi                    # the test for 0 is missing
        call    factorial
        popq    %rdi
        imull   %edi, %eax
        ret
