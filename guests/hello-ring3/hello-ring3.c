/*
 * Hello from ring 3, in each mode that has rings.
 *
 * HLT is privileged: here it would be a general-protection fault (SDM vol. 2, HLT). Ports work all the same, because the
 * TSS that the machine set up has an I/O permission bitmap of zeros (SDM vol. 1, 19.5.2). So there are two ways out:
 *
 *   - a write to the EXIT hypercall register ends the run with a code: works everywhere;
 *   - `int $0x80` enters the trap page, where the machine put a HLT in ring 0: needs a KVM that has INT n.
 */
#include "vmm.h"

_Noreturn void _start(void)
{
    vmm_puts("Hello, ring 3!\n");
    *(volatile uint32_t *)0x400 = 42;

#ifdef END_BY_INT80
    for (;;)
        __asm__ volatile("int $0x80" : : "a"(42) : "memory");
#else
    vmm_exit(42);
#endif
}
