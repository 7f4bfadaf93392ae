/*
 * A higher-half kernel: linked at 0xffffffff80100000, loaded at 0x100000.
 *
 * It is compiled with -mcmodel=kernel: every address is in the highest 2 GiB, so it fits a sign-extended 32-bit field
 * (System V ABI for x86-64, 3.5.1). The same code with the default model would not link.
 */
#include "vmm.h"

uint32_t answer = 42; /* in .data, so it has a virtual address up here and a physical one down there */

_Noreturn void _start(void)
{
    uint64_t here, physical;
    __asm__("leaq 0(%%rip), %0" : "=r"(here));

    vmm_puts("running in page ");
    vmm_print_hex(here & ~0xfffULL, 16);
    vmm_puts("\nanswer is at    ");
    vmm_print_hex((uint64_t)&answer, 16);
    if (vmm_translate((uintptr_t)&answer, &physical) != VMM_OK)
        vmm_exit(1);
    vmm_puts("\nin memory at    ");
    vmm_print_hex(physical, 16);
    vmm_puts("\n");

    /* The same byte through the identity mapping: what is written up here is seen down there. */
    answer += 1;
    vmm_halt(*(volatile uint32_t *)physical);
}
