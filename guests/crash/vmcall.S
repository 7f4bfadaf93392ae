/*
 * VMCALL without end. KVM answers hypercalls in the kernel, so this monitor never sees one.
 */
        .globl _start
_start:
        vmcall
        jmp     _start
