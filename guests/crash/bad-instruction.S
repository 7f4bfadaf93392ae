/*
 * An instruction that KVM would have to execute itself and cannot: SSE arithmetic on device memory.
 *
 * There is no memory at 0xd0000000, so the access leaves the CPU and KVM decodes the instruction to do it in software.
 * Its interpreter knows moves, but no ADDPS: KVM reports INTERNAL_ERROR, emulation failed.
 */
        .globl _start
_start:
        movl    $0xd0000000, %eax
        addps   (%eax), %xmm0
        hlt
