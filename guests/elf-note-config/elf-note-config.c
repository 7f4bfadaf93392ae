/*
 * A test in one file: `vmm-cli run elf-note-config.elf` and `vmm-cli test elf-note-config.elf` find the configuration in the
 * ELF file.
 *
 * elf-note-config.vmm sets RDI, the first argument of a function in the System V ABI, and has the expected output.
 */
#include <vmm.h>

VMM_CONFIGURATION("elf-note-config.vmm");

/* Prints the sums of the numbers up to 1, up to 2 and so on. Never returns. */
void _start(uint64_t count)
{
    uint32_t sum = 0;

    for (uint32_t number = 1; number <= count; number++) {
        sum += number;
        vmm_out32(VMM_HYPERCALL + VMM_PRINT_NUMBER, sum);
        vmm_out8(VMM_DEBUG_CONSOLE, number < count ? ' ' : '\n');
    }
    for (;;)
        vmm_out32(VMM_HYPERCALL + VMM_EXIT, 0);
}
