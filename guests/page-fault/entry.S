/*
 * The way into and out of the page-fault handler.
 *
 * On a fault the CPU pushes SS, RSP, RFLAGS, CS, RIP and, for vector 14, an error code (SDM vol. 3, 6.14.2). The handler
 * is a C function, which may change the registers that the System V ABI calls scratch: they are saved here. IRETQ takes
 * the five values back and runs the instruction that faulted once more.
 */
        .globl page_fault_entry
page_fault_entry:
        pushq   %rax
        pushq   %rcx
        pushq   %rdx
        pushq   %rsi
        pushq   %rdi
        pushq   %r8
        pushq   %r9
        pushq   %r10
        pushq   %r11
        movq    %cr2, %rdi              # first argument: the address that faulted
        movq    72(%rsp), %rsi          # second: the error code, above nine saved registers
        cld
        call    handle_page_fault
        popq    %r11
        popq    %r10
        popq    %r9
        popq    %r8
        popq    %rdi
        popq    %rsi
        popq    %rdx
        popq    %rcx
        popq    %rax
        addq    $8, %rsp                # the error code, which IRETQ does not want
        iretq
