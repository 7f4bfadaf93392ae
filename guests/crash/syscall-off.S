/*
 * SYSCALL without EFER.SCE. The instruction does not exist until a kernel enables it: #UD.
 */
        .globl _start
_start:
        syscall
        hlt
