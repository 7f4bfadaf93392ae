/*
 * A call of a function that is not there. The call itself succeeds: it pushes the return address and sets EIP. It is
 * the fetch of the next instruction that faults, so EIP and CR2 are equal, and only the stack knows the caller.
 */
        .globl _start
_start:
        movl    $0x40000000, %eax
        call    *%eax
        hlt
