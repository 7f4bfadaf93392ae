/*
 * The first guest: one source, built for each of the five CPU modes.
 *
 * The machine starts the vCPU in the mode that the TOML file names, with a stack, at _start. There is no operating
 * system and no firmware: what is not in this file does not run.
 */
#include "vmm.h"

#define ANSWER 42
#define ANSWER_ADDRESS 0x400 /* just above the real-mode interrupt vectors: free in every mode */

_Noreturn void _start(void)
{
    vmm_puts("Hello, world!\n"); /* fourteen OUT instructions, fourteen exits to the monitor */

    /* Through a volatile pointer: the compiler must not think that nobody reads it. */
    *(volatile uint32_t *)ANSWER_ADDRESS = ANSWER;

    vmm_halt(ANSWER);
}
