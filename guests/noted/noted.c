/*
 * A test that is one file: `vmm-cli run noted.elf` and `vmm-cli test noted.elf` find the configuration in the ELF file.
 *
 * noted.vmm sets RDI, which is the first argument of a function in the System V ABI, and says what is to be printed.
 */
#include <vmm.h>

VMM_CONFIGURATION("noted.vmm");

/* Prints the sums of the numbers up to 1, to 2 and so on; there is no way back from here. */
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
