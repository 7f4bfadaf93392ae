/*
 * Baseline of `bench start`: creates the machine, prints the guest's output, exits when the guest halts. See machine.h.
 *
 * Built twice: with static glibc, and with -DNO_LIBC, which makes only the system calls of the KVM flow.
 */
#include "machine.h"

#ifdef NO_LIBC
__attribute__((force_align_arg_pointer)) void _start(void)
#else
int main(void)
#endif
{
    int kvm = make(2 << 20);
    enter(kvm, 0, (struct kvm_regs){ .rip = CODE });
    for (;;) {
        ioctl(vcpu, KVM_RUN, 0);
        if (run->exit_reason != KVM_EXIT_IO)
            break;
        write(1, (uint8_t *)run + run->io.data_offset, 1);
    }
    leave(run->exit_reason != KVM_EXIT_HLT);
}
