/*
 * IRETQ with a frame in the wrong order. It pops RIP, CS, RFLAGS, RSP and SS (SDM vol. 3, 6.14.3); here CS and RFLAGS
 * are swapped. RFLAGS is 2, and as a selector 2 means the null descriptor: #GP.
 */
        .globl _start
_start:
        movq    %rsp, %rax
        pushq   $0x10                   # SS
        pushq   %rax                    # RSP
        pushq   $0x08                   # CS and RFLAGS: the wrong way round
        pushfq
        pushq   $1f                     # RIP
        iretq
1:      hlt
