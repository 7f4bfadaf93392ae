/*
 * Baseline of `bench load`: loads the segments of an ELF file into guest memory and runs guests/bench-touch. See machine.h.
 *
 *   load FILE read|map PAGES RING
 *
 * "read" copies with read(), "map" maps the file copy-on-write over the memory. The guest then reads a word of each of the
 * first PAGES pages of the last segment.
 */
#include "machine.h"

#include <elf.h>
#include <string.h>

int main(int count, char **arguments)
{
    (void)count;
    int kvm = make(2000L << 20);
    int file = open(arguments[1], O_RDONLY);
    Elf64_Ehdr header;
    pread(file, &header, sizeof header, 0);
    Elf64_Phdr segment;
    for (int i = 0; i < header.e_phnum; i++) {
        pread(file, &segment, sizeof segment, header.e_phoff + i * sizeof segment);
        uint8_t *at = memory + segment.p_paddr;
        if (!strcmp(arguments[2], "read"))
            pread(file, at, segment.p_filesz, segment.p_offset);
        else
            mmap(at, segment.p_filesz, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, segment.p_offset);
    }
    struct kvm_regs regs = { .rip = CODE, .rdi = strtoull(arguments[3], NULL, 0), .rsi = segment.p_paddr };
    enter(kvm, atoi(arguments[4]), regs);
    ioctl(vcpu, KVM_RUN, 0);
    return run->exit_reason != KVM_EXIT_IO;
}
