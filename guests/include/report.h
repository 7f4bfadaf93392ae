/*
 * For guests that check what a boot loader handed them: lines of a name and a value on the debug console, and an end that
 * says whether all checks passed.
 */
#ifndef REPORT_H
#define REPORT_H

#include "vmm.h"

static unsigned report_failures;

static inline void report_number(uint64_t value)
{
    char digits[19] = "0x0000000000000000";
    int used = 17;

    do {
        digits[used--] = "0123456789abcdef"[value & 15];
        value >>= 4;
    } while (value != 0);
    vmm_puts("0x");
    vmm_puts(digits + used + 1);
}

/* `name value` */
static inline void report(const char *name, uint64_t value)
{
    vmm_puts(name);
    vmm_puts(" ");
    report_number(value);
    vmm_puts("\n");
}

/* `name "text"` */
static inline void report_text(const char *name, const char *text)
{
    vmm_puts(name);
    vmm_puts(" \"");
    vmm_puts(text);
    vmm_puts("\"\n");
}

/* `start..end kind`, a line of a memory map. */
static inline void report_memory(uint64_t start, uint64_t size, uint32_t kind)
{
    vmm_puts("memory ");
    report_number(start);
    vmm_puts("..");
    report_number(start + size);
    vmm_puts(kind == 1 ? " usable\n" : " reserved\n");
}

/* Says what is wrong if `right` is 0. */
static inline void check(int right, const char *what)
{
    if (!right) {
        vmm_puts("WRONG: ");
        vmm_puts(what);
        vmm_puts("\n");
        report_failures++;
    }
}

/* Ends the run through the exit port: 0 is a success, 1 gives the code 3. */
static inline _Noreturn void report_end(void)
{
    vmm_out32(VMM_DEBUG_EXIT, report_failures != 0);
    for (;;)
        __asm__ volatile("hlt");
}

#endif
