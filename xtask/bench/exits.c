/*
 * Baseline of `bench exits`: runs the loops of guests/bench-exits and handles their exits. See machine.h.
 *
 *   exits KIND COUNT RING [coalesced]
 *
 * With "coalesced" the kernel stores writes to the debug console in the coalesced ring (Documentation/virt/kvm/api.rst,
 * 4.116) and exits when the ring is full.
 */
#include "machine.h"

#include <stdio.h>
#include <string.h>

extern const uint8_t out[], in[], mmio_write[], mmio_read[], rep_outsb[], console[];

static const struct {
    const char *name;
    const uint8_t *entry;
} kinds[] = {
    { "out", out },             { "in", in },               { "mmio_write", mmio_write },
    { "mmio_read", mmio_read }, { "rep_outsb", rep_outsb }, { "console", console },
};

/* Prints the bytes in the coalesced ring. */
static void drain(struct kvm_coalesced_mmio_ring *ring, unsigned most)
{
    while (ring && ring->first != ring->last) {
        putchar(ring->coalesced_mmio[ring->first].data[0]);
        ring->first = (ring->first + 1) % most;
    }
}

int main(int count, char **arguments)
{
    uint64_t entry = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(arguments[1], kinds[i].name))
            entry = kinds[i].entry - guest;
    int kvm = make(2 << 20);
    map_2_mib(0xd0000000);
    struct kvm_regs regs = { .rip = CODE + entry, .rdi = strtoull(arguments[2], NULL, 0) };
    enter(kvm, atoi(arguments[3]), regs);

    struct kvm_coalesced_mmio_ring *ring = NULL;
    unsigned most = (4096 - sizeof *ring) / sizeof *ring->coalesced_mmio;
    if (count > 4) {
        struct kvm_coalesced_mmio_zone zone = { .addr = 0xe9, .size = 1, .pio = 1 };
        ioctl(vm, KVM_REGISTER_COALESCED_MMIO, &zone);
        ring = (void *)((uint8_t *)run + 4096L * ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO));
    }
    for (;;) {
        ioctl(vcpu, KVM_RUN, 0);
        drain(ring, most);
        if (run->exit_reason == KVM_EXIT_MMIO) {
            if (!run->mmio.is_write)
                memset(run->mmio.data, 0xff, run->mmio.len);
            continue;
        }
        if (run->exit_reason != KVM_EXIT_IO || run->io.port == 0xf4)
            break;
        uint8_t *data = (uint8_t *)run + run->io.data_offset;
        if (run->io.direction == KVM_EXIT_IO_IN)
            memset(data, 0xff, run->io.size * run->io.count);
        else if (run->io.port == 0xe9)
            putchar(*data);
    }
    return run->exit_reason != KVM_EXIT_IO;
}
