/*
 * What a Multiboot 2 loader hands over (Multiboot2 Specification 2.0, 3.6), printed and checked. The kernel finds the name
 * of its own function in the symbol table that the ELF sections lead to.
 */
#include "report.h"

struct tag {
    uint32_t type, size;
    union {
        char text[1];
        struct {
            uint32_t start, end;
            char text[1];
        } module;
        struct {
            uint32_t lower, upper;
        } memory;
        struct {
            uint32_t entry_size, version;
        } map;
        struct {
            uint32_t count, entry_size, names;
        } sections;
        uint32_t load_base;
    } is;
};

struct memory {
    uint64_t address, length;
    uint32_t kind, reserved;
};

struct section {
    uint32_t name, type, flags, address, offset, size, link, info, align, entry_size;
};

struct symbol {
    uint32_t name, value, size;
    uint8_t info, other;
    uint16_t section;
};

enum { SYMBOLS = 2 };

void kernel(uint32_t magic, const uint32_t *info);

static int same(const char *one, const char *other)
{
    while (*one != '\0' && *one == *other)
        one++, other++;
    return *one == *other;
}

/* Whether the symbol table among the sections knows `kernel` by its name and address. */
static int knows_itself(const struct section *sections, uint32_t count)
{
    for (uint32_t number = 0; number < count; number++) {
        const struct section *table = &sections[number];

        if (table->type != SYMBOLS || table->address == 0)
            continue;
        for (uint32_t at = 0; at < table->size; at += sizeof(struct symbol)) {
            const struct symbol *symbol = (const void *)(uintptr_t)(table->address + at);
            const char *names = (const void *)(uintptr_t)sections[table->link].address;

            if (same(names + symbol->name, "kernel"))
                return symbol->value == (uintptr_t)kernel;
        }
    }
    return 0;
}

void kernel(uint32_t magic, const uint32_t *info)
{
    const uint8_t *at = (const uint8_t *)(info + 2), *end = (const uint8_t *)info + info[0];

    check(magic == 0x36d76289, "the magic number in EAX");
    check((uintptr_t)info % 8 == 0, "the information is at a multiple of 8");
    for (; at < end; at += (((const struct tag *)at)->size + 7) & ~7u) {
        const struct tag *tag = (const void *)at;

        switch (tag->type) {
        case 1:
            report_text("command line", tag->is.text);
            break;
        case 2:
            report_text("loader", tag->is.text);
            break;
        case 3:
            report_text("module", tag->is.module.text);
            check(tag->is.module.start % 4096 == 0, "a module begins on a page");
            for (uint32_t byte = tag->is.module.start; byte < tag->is.module.end; byte++)
                vmm_out8(VMM_DEBUG_CONSOLE, *(const uint8_t *)(uintptr_t)byte);
            break;
        case 4:
            report("lower KiB", tag->is.memory.lower);
            report("upper KiB", tag->is.memory.upper);
            break;
        case 6: {
            const struct memory *memory = (const void *)(at + 16);

            check(tag->is.map.entry_size == sizeof *memory, "the size of an entry of the memory map");
            for (; (const uint8_t *)memory < at + tag->size; memory++)
                report_memory(memory->address, memory->length, memory->kind);
            break;
        }
        case 9:
            check(tag->is.sections.entry_size == sizeof(struct section), "the size of a section header");
            if (knows_itself((const void *)(at + 20), tag->is.sections.count))
                vmm_puts("found its own symbol\n");
            break;
        case 14:
        case 15:
            check(at[8] == 'R' && at[15] == ' ', "the RSDP's signature");
            vmm_puts(tag->type == 14 ? "RSDP of ACPI 1.0\n" : "RSDP of ACPI 2.0\n");
            break;
        case 21:
            report("load base", tag->is.load_base);
            break;
        case 0:
            check(tag->size == 8 && at + 8 == end, "the end tag is the last");
            report_end();
        }
    }
    check(0, "an end tag");
    report_end();
}
