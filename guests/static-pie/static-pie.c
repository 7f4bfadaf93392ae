/*
 * A static position-independent executable: linked at 0, loaded wherever the TOML file's `base` says.
 *
 * Code finds its data relative to rip and needs no help. A table of pointers does: the linker cannot know the addresses,
 * so it leaves a list of R_X86_64_RELATIVE relocations, and whoever loads the file adds the base to each entry (System V
 * ABI for x86-64, 4.4.1). Without that the loop below would print from page 0.
 */
#include "vmm.h"

/* volatile: the table has to be read at run time, not folded into the code. */
static const char *const volatile words[] = {"position ", "independent ", "and ", "relocated\n"};

_Noreturn void _start(void)
{
    for (unsigned i = 0; i < sizeof words / sizeof *words; i++)
        vmm_puts(words[i]);
    vmm_halt((uint32_t)(uintptr_t)&_start); /* shows where it landed */
}
