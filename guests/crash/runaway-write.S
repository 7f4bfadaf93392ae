/*
 * A loop that clears memory and forgets where to stop. It clears its buffer, all behind it and the stack, up to the end
 * of the memory: 120,000 innocent steps, and then the one that faults.
 */
        .globl _start
_start:
        movl    $buffer, %edi
1:      movq    $0, (%rdi)
        addq    $8, %rdi
        jmp     1b                      # the test for the end is missing

        .bss
        .balign 4096
buffer: .skip   4096
