/*
 * A driver for virtio devices over MMIO, as small as one can be: no interrupts, one request at a time, and the used ring is
 * looked at until the answer is there. The numbers in comments are sections of Virtual I/O Device Version 1.2.
 */
#include "vmm.h"

#define FIRST_WINDOW 0xd0000000ul
#define STRIDE 0x1000ul

/* Registers (4.2.2). */
#define MAGIC 0x000
#define VERSION 0x004
#define DEVICE_ID 0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SEL 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SEL 0x024
#define QUEUE_SEL 0x030
#define QUEUE_NUM_MAX 0x034
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define QUEUE_NOTIFY 0x050
#define STATUS 0x070
#define QUEUE_DESC_LOW 0x080
#define QUEUE_DRIVER_LOW 0x090
#define QUEUE_DEVICE_LOW 0x0a0
#define CONFIG 0x100

#define ACKNOWLEDGE 1
#define DRIVER 2
#define DRIVER_OK 4
#define FEATURES_OK 8
#define VERSION_1 1 /* bit 32: bit 0 of the upper half */

#define BLOCK 2
#define CONSOLE 3
#define ENTROPY 4

#define NEXT 1
#define WRITE 2

#define QUEUE_SIZE 4

/* The three parts of a queue (2.7), each where its alignment wants it. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

static struct {
    _Alignas(16) struct descriptor table[QUEUE_SIZE];
    _Alignas(4) volatile struct {
        uint16_t flags, index, ring[QUEUE_SIZE];
    } available;
    _Alignas(4) volatile struct {
        uint16_t flags, index;
        struct {
            uint32_t head, length;
        } ring[QUEUE_SIZE];
    } used;
} queue;

static volatile uint32_t *window;

static uint32_t get(uint32_t offset)
{
    return window[offset / 4];
}

static void set(uint32_t offset, uint32_t value)
{
    window[offset / 4] = value;
}

static void place(uint32_t offset, const volatile void *part)
{
    set(offset, (uint32_t)(uintptr_t)part);
    set(offset + 4, (uint32_t)((uintptr_t)part >> 32));
}

static _Noreturn void fail(const char *what)
{
    vmm_puts("virtio: ");
    vmm_puts(what);
    vmm_puts("\n");
    vmm_exit(1);
}

/* Initialization, step by step (3.1.1), with one queue. */
static void start(uint32_t number)
{
    set(STATUS, 0);
    set(STATUS, ACKNOWLEDGE);
    set(STATUS, ACKNOWLEDGE | DRIVER);
    set(DEVICE_FEATURES_SEL, 1);
    if (!(get(DEVICE_FEATURES) & VERSION_1))
        fail("a device from before version 1");
    set(DRIVER_FEATURES_SEL, 0);
    set(DRIVER_FEATURES, 0);
    set(DRIVER_FEATURES_SEL, 1);
    set(DRIVER_FEATURES, VERSION_1);
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(get(STATUS) & FEATURES_OK))
        fail("no agreement on features");

    queue.available.flags = 1; /* no interrupts (2.7.7) */
    queue.available.index = queue.used.index = 0;
    set(QUEUE_SEL, number);
    if (get(QUEUE_NUM_MAX) < QUEUE_SIZE)
        fail("the queue is too small");
    set(QUEUE_NUM, QUEUE_SIZE);
    place(QUEUE_DESC_LOW, queue.table);
    place(QUEUE_DRIVER_LOW, &queue.available);
    place(QUEUE_DEVICE_LOW, &queue.used);
    set(QUEUE_READY, 1);
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void describe(int index, const volatile void *buffer, uint32_t length, uint16_t flags)
{
    queue.table[index] = (struct descriptor){(uintptr_t)buffer, length, flags, (uint16_t)(index + 1)};
}

/* Hands the chain that begins at descriptor 0 to the device; returns how many bytes it wrote. */
static uint32_t request(uint32_t number)
{
    uint16_t before = queue.used.index;

    queue.available.ring[queue.available.index % QUEUE_SIZE] = 0;
    __asm__ volatile("" : : : "memory"); /* x86 keeps the order of writes, the compiler need not */
    queue.available.index++;
    __asm__ volatile("" : : : "memory");
    set(QUEUE_NOTIFY, number);
    while (queue.used.index == before)
        ;
    __asm__ volatile("" : : : "memory");
    return queue.used.ring[before % QUEUE_SIZE].length;
}

/* Disks (5.2.6): a header, data, a status. */
static uint8_t disk(uint32_t type, uint64_t sector, void *data, uint32_t length)
{
    static struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    static volatile uint8_t status;

    header.type = type;
    header.sector = sector;
    status = 0xff;
    describe(0, &header, sizeof header, NEXT);
    describe(1, data, length, type == 1 ? NEXT : NEXT | WRITE);
    describe(2, &status, 1, WRITE);
    request(0);
    return status;
}

static void block(void)
{
    static char sector[512 + 1], other[512];

    start(0);
    vmm_puts("block device of ");
    vmm_print_number(get(CONFIG));
    vmm_puts(" sectors, named ");
    if (disk(8, 0, sector, 20) != 0)
        fail("it has no name");
    vmm_puts(sector);
    vmm_puts("\n");
    if (disk(0, 0, sector, 512) != 0)
        fail("sector 0 cannot be read");
    vmm_puts(sector);
    for (int i = 0; i < 512; i++)
        sector[i] = (char)i;
    if (disk(1, 1, sector, 512) != 0) {
        vmm_puts("sector 1 cannot be written\n");
        return;
    }
    if (disk(4, 0, sector, 0) != 0 || disk(0, 1, other, 512) != 0)
        fail("sector 1 cannot be read");
    for (int i = 0; i < 512; i++)
        if (other[i] != (char)i)
            fail("sector 1 is not what was written");
    vmm_puts("sector 1 was written\n");
}

static void console(void)
{
    static const char text[] = "printed by the virtio console\n";

    start(1);
    describe(0, text, sizeof text - 1, 0);
    request(1);
}

static void entropy(void)
{
    static uint64_t numbers[4];

    start(0);
    describe(0, numbers, sizeof numbers, WRITE);
    if (request(0) != sizeof numbers)
        fail("too few random numbers");
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            if (numbers[i] == numbers[j])
                fail("the same number twice");
    vmm_puts("four random numbers\n");
}

/* The number of devices comes in RDI: the configuration says so in [registers]. */
_Noreturn void _start(uint64_t devices)
{
    for (uint64_t i = 0; i < devices; i++) {
        window = (volatile uint32_t *)(FIRST_WINDOW + i * STRIDE);
        if (get(MAGIC) != 0x74726976 || get(VERSION) != 2)
            fail("no device");
        switch (get(DEVICE_ID)) {
        case BLOCK:
            block();
            break;
        case CONSOLE:
            console();
            break;
        case ENTROPY:
            entropy();
            break;
        }
    }
    vmm_halt((uint32_t)devices);
}
