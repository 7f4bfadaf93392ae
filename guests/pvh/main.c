/*
 * What a PVH loader hands over (xen/include/public/arch-x86/hvm/start_info.h), printed and checked.
 */
#include "report.h"

struct start_info {
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist_paddr, cmdline_paddr, rsdp_paddr;
    uint64_t memmap_paddr; /* from here on in version 1 */
    uint32_t memmap_entries, reserved;
};

struct module {
    uint64_t paddr, size, cmdline_paddr, reserved;
};

struct memory {
    uint64_t address, size;
    uint32_t kind, reserved;
};

static const void *pointer(uint64_t address)
{
    return (const void *)(uintptr_t)address;
}

void kernel(const struct start_info *info);

void kernel(const struct start_info *info)
{
    const struct module *module = pointer(info->modlist_paddr);
    const struct memory *memory = pointer(info->memmap_paddr);
    const char *rsdp = pointer(info->rsdp_paddr);

    check(info->magic == 0x336ec578, "the magic number");
    report("version", info->version);
    report_text("command line", pointer(info->cmdline_paddr));
    for (uint32_t number = 0; number < info->memmap_entries; number++)
        report_memory(memory[number].address, memory[number].size, memory[number].kind);
    for (uint32_t number = 0; number < info->nr_modules; number++, module++) {
        report_text("module", pointer(module->cmdline_paddr));
        for (uint64_t byte = 0; byte < module->size; byte++)
            vmm_out8(VMM_DEBUG_CONSOLE, ((const uint8_t *)pointer(module->paddr))[byte]);
    }
    report("RSDP", info->rsdp_paddr);
    check(rsdp[0] == 'R' && rsdp[7] == ' ', "the RSDP's signature");
    report_end();
}
