/*
 * The floor of a start: makes the machine, prints what the guest prints, ends when it halts. See machine.h.
 *
 * Built twice: with glibc, static; and with -DNO_LIBC, where between exec and exit there is nothing but the calls of the flow.
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
