/*
 * What a Multiboot 1 loader hands over (Multiboot Specification 0.6.96, 3.3), printed and checked.
 */
#include "report.h"

struct information {
    uint32_t flags;
    uint32_t mem_lower, mem_upper; /* bit 0, in KiB */
    uint32_t boot_device;          /* bit 1 */
    uint32_t cmdline;              /* bit 2 */
    uint32_t mods_count, mods_addr; /* bit 3 */
    uint32_t syms[4];
    uint32_t mmap_length, mmap_addr; /* bit 6 */
    uint32_t drives_length, drives_addr;
    uint32_t config_table;
    uint32_t boot_loader_name; /* bit 9 */
};

struct module {
    uint32_t start, end, string, reserved;
};

struct memory {
    uint32_t size; /* of what follows */
    uint64_t address, length;
    uint32_t kind;
} __attribute__((packed));

static void *pointer(uint32_t address)
{
    return (void *)(uintptr_t)address;
}

void kernel(uint32_t magic, const struct information *info);

void kernel(uint32_t magic, const struct information *info)
{
    const struct module *module = pointer(info->mods_addr);
    uint32_t at = info->mmap_addr, end = at + info->mmap_length;

    check(magic == 0x2badb002, "the magic number in EAX");
    check((info->flags & 0x24d) == 0x24d, "the flags of what is there");
    report_text("loader", pointer(info->boot_loader_name));
    report_text("command line", pointer(info->cmdline));
    report("lower KiB", info->mem_lower);
    report("upper KiB", info->mem_upper);
    while (at < end) {
        const struct memory *memory = pointer(at);

        report_memory(memory->address, memory->length, memory->kind);
        at += memory->size + 4;
    }
    for (uint32_t number = 0; number < info->mods_count; number++, module++) {
        report_text("module", pointer(module->string));
        check(module->start % 4096 == 0, "a module begins on a page");
        for (uint32_t byte = module->start; byte < module->end; byte++)
            vmm_out8(VMM_DEBUG_CONSOLE, *(const uint8_t *)pointer(byte));
    }
    report_end();
}
