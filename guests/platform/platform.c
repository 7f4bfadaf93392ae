/*
 * A tour of the PC around the CPU: each part is looked for where kernels look for it, and named when it is as it has to be.
 * The first one that is not ends the run with its number as the code. The last is the power switch.
 */
#include "vmm.h"

/* The numbers of the parts, which are the exit codes. */
enum part { CLOCK = 1, BIOS_DATA, ROOT_POINTER, TABLES, MP_TABLE, CONFIGURATION, TEST_DEVICE, TIMER, CONTROLLER, POWER };

static _Noreturn void fail(enum part part)
{
    vmm_out8(VMM_DEBUG_EXIT, (uint8_t)part); /* the code is 2 * part + 1 */
    for (;;)
        ;
}

static void check(int right, enum part part)
{
    if (!right)
        fail(part);
}

static void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* The compiler must not know that these addresses are numbers of ours: it would warn of accesses to nothing. */
static volatile uint8_t *at(uint64_t address)
{
    __asm__("" : "+r"(address));
    return (volatile uint8_t *)address;
}

static uint32_t word16(uint64_t address)
{
    return at(address)[0] | (uint32_t)at(address)[1] << 8;
}

static uint32_t word32(uint64_t address)
{
    return word16(address) | word16(address + 2) << 16;
}

static int has(uint64_t address, const char *text)
{
    for (; *text != '\0'; text++, address++)
        if (*at(address) != (uint8_t)*text)
            return 0;
    return 1;
}

static uint8_t sum(uint64_t address, uint32_t length)
{
    uint8_t sum = 0;
    for (; length > 0; length--, address++)
        sum = (uint8_t)(sum + *at(address));
    return sum;
}

/* The first multiple of 16 in the BIOS area from `start` on where `text` stands, or 0. */
static uint64_t find(uint64_t start, const char *text)
{
    for (; start < 0x100000; start += 16)
        if (has(start, text))
            return start;
    return 0;
}

static uint8_t cmos(uint8_t index)
{
    vmm_out8(0x70, index);
    return vmm_in8(0x71);
}

/* A register in BCD as a number, or 255. */
static uint32_t decimal(uint8_t index)
{
    uint8_t value = cmos(index);
    return (value >> 4) < 10 && (value & 0xf) < 10 ? (value >> 4) * 10u + (value & 0xf) : 255;
}

static void clock(void)
{
    while (cmos(0x0a) & 0x80) /* an update is in progress */
        ;
    check(cmos(0x0b) == 0x02 && (cmos(0x0d) & 0x80), CLOCK);
    uint32_t second = decimal(0), minute = decimal(2), hour = decimal(4), day = decimal(7), month = decimal(8);
    uint32_t year = decimal(0x32) * 100 + decimal(9);
    check(second < 60 && minute < 60 && hour < 24 && day >= 1 && day <= 31 && month >= 1 && month <= 12, CLOCK);
    check(year >= 2024 && year < 2200, CLOCK);
    uint32_t kib = cmos(0x17) | (uint32_t)cmos(0x18) << 8; /* memory above 1 MiB */
    check(kib == 1024, CLOCK);
    vmm_puts("clock\n");
}

static void bios_data(void)
{
    uint64_t extended = (uint64_t)word16(0x40e) << 4;
    check(extended == 0x9fc00 && *at(extended) == 1 && word16(0x413) == 639, BIOS_DATA);
    vmm_puts("BIOS data\n");
}

/* Returns the address of the FADT. */
static uint64_t acpi(void)
{
    uint64_t root = find(0xe0000, "RSD PTR ");
    check(root != 0 && sum(root, 20) == 0 && sum(root, 36) == 0, ROOT_POINTER);
    uint64_t list = word32(root + 24);
    check(has(list, "XSDT") && sum(list, word32(list + 4)) == 0, ROOT_POINTER);
    vmm_puts("ACPI:");
    uint64_t fadt = 0;
    for (uint64_t entry = list + 36; entry < list + word32(list + 4); entry += 8) {
        uint64_t table = word32(entry);
        check(sum(table, word32(table + 4)) == 0, TABLES);
        const char name[] = {' ', (char)*at(table), (char)*at(table + 1), (char)*at(table + 2), (char)*at(table + 3), 0};
        vmm_puts(name);
        if (has(table, "FACP"))
            fadt = table;
    }
    check(fadt != 0, TABLES);
    uint64_t devices = word32(fadt + 40);
    check(has(devices, "DSDT") && sum(devices, word32(devices + 4)) == 0, TABLES);
    vmm_puts(" DSDT\n");
    return fadt;
}

static void mp_table(void)
{
    uint64_t pointer = find(0xf0000, "_MP_");
    check(pointer != 0 && sum(pointer, 16) == 0, MP_TABLE);
    uint64_t table = word32(pointer + 4);
    check(has(table, "PCMP") && sum(table, word16(table + 4)) == 0, MP_TABLE);
    vmm_puts("MP table\n");
}

/* The next bytes of the selected item, as a number of `length` bytes. */
static uint64_t next(uint32_t length)
{
    uint64_t value = 0;
    for (uint32_t byte = 0; byte < length; byte++)
        value |= (uint64_t)vmm_in8(0x511) << 8 * byte;
    return value;
}

static uint64_t item(uint16_t key, uint32_t length)
{
    out16(0x510, key);
    return next(length);
}

static void configuration(void)
{
    check(item(0, 4) == 0x554d4551, CONFIGURATION); /* "QEMU" */
    check(item(3, 8) == 0x200000 && item(5, 2) == 1, CONFIGURATION);
    check(item(0x19, 4) == 0x01000000, CONFIGURATION); /* one file; the directory is big-endian */
    uint32_t size = (uint32_t)next(4) >> 24;
    uint16_t key = (uint16_t)next(2);
    item((uint16_t)(key >> 8 | key << 8), 0);
    vmm_puts("fw-cfg: ");
    for (; size > 0; size--)
        vmm_out8(VMM_DEBUG_CONSOLE, vmm_in8(0x511));
}

static uint8_t page[4096] __attribute__((aligned(4096)));

static void test_device(void)
{
    vmm_out32(0xe0, 0x12345678);
    check(in16(0xe1) == 0x3456 && vmm_in8(0xe3) == 0x12, TEST_DEVICE);
    *(volatile uint64_t *)at(0xff00fff8) = 0x1122334455667788;
    check(*(volatile uint32_t *)at(0xff00fffa) == 0x33445566, TEST_DEVICE);
    *(volatile uint8_t *)page = 0x5a;
    vmm_out32(0xe4, (uint32_t)(uint64_t)page);
    check(*(volatile uint8_t *)page == 0x5a, TEST_DEVICE);
    /* Interrupt 5 at the PIC: nobody takes it, but it is requested. */
    vmm_out8(0x2005, 1);
    vmm_out8(0x20, 0x0a);
    check((vmm_in8(0x20) & 0x20) != 0, TEST_DEVICE);
    vmm_out8(0x2005, 0);
    vmm_puts("test device\n");
}

static void timer(uint64_t fadt)
{
    uint16_t port = (uint16_t)word32(fadt + 76);
    uint32_t first = vmm_in32(port), second = first;
    for (uint32_t turn = 0; turn < 1000 && second == first; turn++)
        second = vmm_in32(port);
    check(second != first, TIMER);
    vmm_puts("PM timer\n");
}

static void controller(void)
{
    vmm_out8(0x64, 0xaa); /* test yourself */
    check((vmm_in8(0x64) & 1) && vmm_in8(0x60) == 0x55 && !(vmm_in8(0x64) & 1), CONTROLLER);
    check((vmm_in8(0x92) & 2) != 0, CONTROLLER); /* A20 */
    check(vmm_in32(0xcfc) == 0xffffffff, CONTROLLER); /* no PCI */
    vmm_puts("keyboard controller\n");
}

void _start(void)
{
    clock();
    bios_data();
    uint64_t fadt = acpi();
    mp_table();
    configuration();
    test_device();
    timer(fadt);
    controller();
    /* Sleep type 0 is S5 here, as \_S5 in the DSDT says; SLP_EN is bit 13. */
    out16((uint16_t)word32(fadt + 64), 0x2000);
    fail(POWER);
}
