/*
 * Demand paging in its smallest form: touch a page that is not there, be told, map it, go on.
 *
 * The guest installs an interrupt descriptor table of its own with one gate, vector 14, and writes to 0x40000400. Nothing
 * is mapped there. The handler reports the fault, adds a 2 MiB page that shows the memory at 0, and returns; the write
 * then happens, and can be found at 0x400.
 */
#include "vmm.h"

#define PRESENT 0x01 /* page-table entry bits: SDM vol. 3, 4.5.4 */
#define WRITABLE 0x02
#define LARGE 0x80
#define ADDRESS_MASK 0x000ffffffffff000ULL

#define HOLE 0x40000000ULL /* 1 GiB: the start of the second entry of the page-directory-pointer table */

/* A 64-bit gate (SDM vol. 3, 6.14.1). */
struct gate {
    uint16_t offset_0;
    uint16_t selector;
    uint16_t flags; /* bit 15: present; bits 8-11: 0xe, interrupt gate; bits 0-2: no stack switch */
    uint16_t offset_16;
    uint32_t offset_32;
    uint32_t reserved;
};

static struct gate idt[32] __attribute__((aligned(16)));
static uint64_t page_directory[512] __attribute__((aligned(4096)));

void page_fault_entry(void); /* entry.S */

static void install_handler(void)
{
    uintptr_t handler = (uintptr_t)page_fault_entry;
    uint16_t code_segment;
    __asm__("movw %%cs, %0" : "=r"(code_segment));
    idt[14] = (struct gate){
        .offset_0 = (uint16_t)handler,
        .selector = code_segment,
        .flags = 0x8e00,
        .offset_16 = (uint16_t)(handler >> 16),
        .offset_32 = (uint32_t)(handler >> 32),
    };

    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } idtr = {sizeof idt - 1, (uintptr_t)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr), "m"(idt));
}

/* Called from entry.S. */
void handle_page_fault(uint64_t address, uint64_t error_code)
{
    vmm_puts("page fault at ");
    vmm_print_number((uint32_t)address);
    vmm_puts(" (");
    vmm_print_hex(address, 8);
    vmm_puts("), error code ");
    vmm_print_number((uint32_t)error_code);
    vmm_puts(error_code & 1 ? ": forbidden, " : ": not mapped, ");
    vmm_puts(error_code & 2 ? "write, " : "read, ");
    vmm_puts(error_code & 4 ? "ring 3\n" : "ring 0\n");
    if (address < HOLE || address >= HOLE + (2 << 20) || (error_code & 1))
        vmm_exit(1); /* not the fault that was made on purpose */

    /* The tables lie in identity-mapped memory, so the physical addresses in CR3 and in the entries are pointers. */
    uint64_t cr3;
    __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
    volatile uint64_t *pml4 = (uint64_t *)(cr3 & ADDRESS_MASK);
    volatile uint64_t *pdpt = (uint64_t *)(pml4[0] & ADDRESS_MASK);
    page_directory[0] = 0 | LARGE | WRITABLE | PRESENT;
    pdpt[1] = (uintptr_t)page_directory | WRITABLE | PRESENT;
    vmm_puts("mapped a page there, trying again\n");
}

_Noreturn void _start(void)
{
    install_handler();

    volatile uint32_t *hole = (uint32_t *)(HOLE + 0x400);
    *hole = 42; /* faults once, then succeeds */

    vmm_puts("the write went through\n");
    vmm_halt(*hole);
}
