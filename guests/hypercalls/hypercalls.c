/*
 * A tour of the hypercall registers: each is used once, also with pointers that lead nowhere.
 *
 * A guest can hand the machine any number as an address. The answer to a wild one is a status, never a crash of the
 * monitor: that is what most of this guest is about. It is built for each of the five modes.
 */
#include "vmm.h"

#define WILD 0xdead0000u /* above all memory, and not mapped where there is paging */

static char buffer[1024];

/* Prints "NAME: status N". */
static void report(const char *name, uint32_t status)
{
    vmm_print_string(name);
    vmm_print_string(": status ");
    vmm_print_number(status);
    vmm_print_byte('\n');
}

static void show_arguments(void)
{
    uint32_t status = vmm_arguments(buffer, sizeof buffer);
    vmm_print_string("arguments:");
    for (const char *argument = buffer; status == VMM_OK && *argument != '\0';) {
        vmm_print_string(" [");
        vmm_print_string(argument);
        vmm_print_string("]");
        while (*argument++ != '\0')
            ;
    }
    vmm_print_byte('\n');
    report("arguments, 4 bytes for them", vmm_arguments(buffer, 4));
    vmm_out32(VMM_HYPERCALL + VMM_LENGTH, 64);
    report("arguments, wild buffer", vmm_call(VMM_ARGUMENTS, WILD));
}

static void show_exits(void)
{
    uint32_t first = vmm_exit_count();
    uint32_t second = vmm_exit_count();
    vmm_print_string("exits between two reads of the counter: ");
    vmm_print_number(second - first);
    vmm_print_string("\nexits so far, by type:\n");
    uint32_t status = vmm_exit_stats(buffer, sizeof buffer);
    vmm_print_string(buffer);
    vmm_print_byte('\n');
    report("exit statistics", status);
    report("exit statistics, wild buffer", vmm_call(VMM_EXIT_STATS, WILD));
}

static void show_translation(void)
{
    uint64_t physical = 0;
    report("translate", vmm_translate((uintptr_t)buffer, &physical));
    vmm_print_string(physical == (uintptr_t)buffer ? "memory is identity-mapped\n" : "memory is mapped elsewhere\n");
    /* Pages are 4 KiB on both sides, so the lowest twelve bits of the host's address are ours. */
    int fits = (vmm_host_address() & 0xfff) == ((uintptr_t)buffer & 0xfff);
    vmm_print_string(fits ? "host address fits\n" : "host address is off\n");
    report("translate, wild address", vmm_translate(WILD, &physical));
}

/* 64 KiB without a NUL. In real mode no pointer reaches that far: a segment register has to. */
static uintptr_t fill_64k(void)
{
#ifdef REAL_MODE
    uintptr_t start = 0x10000;
    uint32_t to = 0, count = 0x4000;
    __asm__ volatile("movw %2, %%es; cld; rep stosl; movw %3, %%es"
                     : "+D"(to), "+c"(count)
                     : "r"((uint16_t)0x1000), "r"((uint16_t)0), "a"(0x78787878)
                     : "memory");
#else
    static uint32_t block[0x4000];
    uintptr_t start = (uintptr_t)block, to = start, count = 0x4000;
    __asm__ volatile("cld; rep stosl" : "+D"(to), "+c"(count) : "a"(0x78787878) : "memory");
#endif
    return start;
}

_Noreturn void _start(void)
{
    if (!vmm_present())
        vmm_halt(1);
    vmm_print_byte('*');
    vmm_print_byte('\n');
    vmm_print_number(4294967295u);
    vmm_print_byte('\n');
    report("print string", vmm_print_string("one exit for the whole line\n"));
    report("print string, wild address", vmm_call(VMM_PRINT_STRING, WILD));
    report("print string, no end", vmm_call(VMM_PRINT_STRING, fill_64k()));
    vmm_out8(VMM_HYPERCALL + VMM_PRINT_NUMBER, 7);
    report("print number, 8 bits", vmm_in32(VMM_HYPERCALL + VMM_STATUS));
    show_arguments();
    show_exits();
    show_translation();
    vmm_exit(7);
}
