/*
 * The interrupt controllers and timers of a PC, for guests in C: the guest has a function `main`, and a handler is
 *
 *     INTERRUPT_ENTRY(timer_entry, timer);    the code at which the CPU begins, which calls ...
 *     void timer(void) { ... }                ... this function
 *     set_gate(0x40, timer_entry);            the entry of the IDT
 */
#ifndef INTERRUPTS_H
#define INTERRUPTS_H

#include "apic.h"
#include "vmm.h"

/* The start of the program. A guest that is done has printed so and halts with interrupts off. */
int main(void);

__asm__(".pushsection .text\n"
        ".globl _start\n"
        ".type _start, @function\n"
        "_start:\n"
        "    call main\n"
        "1:  cli\n"
        "    hlt\n"
        "    jmp 1b\n"
        ".size _start, . - _start\n"
        ".popsection");

static inline int done(void)
{
    vmm_puts("done\n");
    return 0;
}

/* For a function that shall have its own name in reports. */
#define NOINLINE __attribute__((noipa))

/* ---- Instructions ---- */

static inline void enable_interrupts(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void disable_interrupts(void)
{
    __asm__ volatile("cli" : : : "memory");
}

static inline void halt(void)
{
    __asm__ volatile("hlt" : : : "memory");
}

/* Interrupts are enabled after the instruction that follows STI, so none is handled before the CPU halts. */
static inline void wait_for_interrupt(void)
{
    __asm__ volatile("sti\n\thlt" : : : "memory");
}

static inline void cpu_pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* ---- The IDT (SDM vol. 3, 6.14.1) ---- */

struct gate {
    uint16_t offset_0;
    uint16_t selector;
    uint8_t ist;   /* 0: no switch to a stack of the TSS */
    uint8_t flags; /* bit 7: present; bits 0-3: 0xe, interrupt gate */
    uint16_t offset_16;
    uint32_t offset_32;
    uint32_t reserved;
};

#define KERNEL_CODE 0x08 /* the code segment in the GDT that the machine starts with */
#define INTERRUPT_GATE 0x8e

static struct gate idt[256] __attribute__((aligned(16)));

static inline void set_gate_fields(int vector, void (*entry)(void), uint16_t selector, uint8_t ist, uint8_t flags)
{
    uint64_t address = (uint64_t)entry;

    idt[vector] = (struct gate){
        .offset_0 = (uint16_t)address,
        .selector = selector,
        .ist = ist,
        .flags = flags,
        .offset_16 = (uint16_t)(address >> 16),
        .offset_32 = (uint32_t)(address >> 32),
    };
}

static inline void set_gate(int vector, void (*entry)(void))
{
    set_gate_fields(vector, entry, KERNEL_CODE, 0, INTERRUPT_GATE);
}

static inline void load_idt_of(int gates)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } idtr = {(uint16_t)(gates * sizeof idt[0] - 1), (uint64_t)idt};

    __asm__ volatile("lidt %0" : : "m"(idtr), "m"(idt) : "memory");
}

static inline void load_idt(void)
{
    load_idt_of(256);
}

/* Defines `entry`, which saves the registers that a C function may change, calls `function`, and returns from the interrupt. */
#define INTERRUPT_ENTRY(entry, function)                                                                               \
    void entry(void);                                                                                                  \
    void function(void);                                                                                               \
    __asm__(".pushsection .text\n"                                                                                     \
            ".globl " #entry "\n"                                                                                      \
            ".type " #entry ", @function\n" #entry ":\n"                                                               \
            "    pushq %rax\n    pushq %rcx\n    pushq %rdx\n    pushq %rsi\n    pushq %rdi\n"                         \
            "    pushq %r8\n    pushq %r9\n    pushq %r10\n    pushq %r11\n"                                           \
            "    cld\n"                                                                                                \
            "    call " #function "\n"                                                                                 \
            "    popq %r11\n    popq %r10\n    popq %r9\n    popq %r8\n"                                               \
            "    popq %rdi\n    popq %rsi\n    popq %rdx\n    popq %rcx\n    popq %rax\n"                              \
            "    iretq\n"                                                                                              \
            ".size " #entry ", . - " #entry "\n"                                                                       \
            ".popsection")

/* ---- The local APIC (SDM vol. 3, chapter 11) ---- */

#define ONE_SHOT 0

#define ICR_ASSERT 0x4000
#define ICR_NMI 0x4400
#define ICR_INIT 0x4500
#define ICR_SIPI 0x4600
#define ICR_SELF 0x40000 /* to the sender; the destination field is ignored */

static inline void apic_write(uint32_t offset, uint32_t value)
{
    *(volatile uint32_t *)(APIC + (uint64_t)offset) = value;
}

static inline uint32_t apic_read(uint32_t offset)
{
    return *(volatile uint32_t *)(APIC + (uint64_t)offset);
}

static inline void apic_enable(void)
{
    apic_write(APIC_SPURIOUS, 0x1ff);
    apic_write(APIC_TPR, 0);
}

static inline void apic_eoi(void)
{
    apic_write(APIC_EOI, 0);
}

/* Starts the timer: PERIODIC or ONE_SHOT. KVM counts nanoseconds. */
static inline void apic_timer_start(uint32_t vector, uint32_t mode, uint32_t count)
{
    apic_write(APIC_DIVIDE, DIVIDE_BY_1);
    apic_write(APIC_LVT_TIMER, vector | mode);
    apic_write(APIC_INITIAL, count);
}

/* Sends an interrupt to the CPU with this APIC ID. */
static inline void apic_send(uint32_t apic_id, uint32_t command)
{
    apic_write(APIC_ICR_HIGH, apic_id << 24);
    apic_write(APIC_ICR_LOW, command);
    while (apic_read(APIC_ICR_LOW) & 0x1000) /* delivery is pending */
        cpu_pause();
}

/* ---- The IOAPIC: 82093AA datasheet ---- */

#define IOAPIC 0xfec00000
#define IOAPIC_LEVEL 0x8000
#define IOAPIC_MASKED 0x10000

static inline void ioapic_write(uint32_t index, uint32_t value)
{
    *(volatile uint32_t *)(uint64_t)IOAPIC = index;
    *(volatile uint32_t *)(uint64_t)(IOAPIC + 0x10) = value;
}

/* Sets the redirection entry of an input; the destination is the first CPU. */
static inline void ioapic_set(uint32_t input, uint32_t entry)
{
    ioapic_write(0x11 + 2 * input, 0);
    ioapic_write(0x10 + 2 * input, entry);
}

/* ---- The two 8259s: 8259A datasheet ---- */

#define PIC_MASTER 0x20
#define PIC_SLAVE 0xa0
#define PIC_EOI 0x20

/* Initializes both: the slave's first vector is 8 above the master's. A bit that is set in a mask disables that input. */
static inline void pic_init(uint8_t first_vector, uint8_t master_mask, uint8_t slave_mask)
{
    vmm_out8(PIC_MASTER, 0x11); /* ICW1: edge-triggered, cascaded, ICW4 follows */
    vmm_out8(PIC_SLAVE, 0x11);
    vmm_out8(PIC_MASTER + 1, first_vector); /* ICW2 */
    vmm_out8(PIC_SLAVE + 1, (uint8_t)(first_vector + 8));
    vmm_out8(PIC_MASTER + 1, 1 << 2); /* ICW3: the slave is at input 2 */
    vmm_out8(PIC_SLAVE + 1, 2);
    vmm_out8(PIC_MASTER + 1, 1); /* ICW4: 8086 mode */
    vmm_out8(PIC_SLAVE + 1, 1);
    vmm_out8(PIC_MASTER + 1, master_mask);
    vmm_out8(PIC_SLAVE + 1, slave_mask);
}

/* Waits until an input of an 8259 requests an interrupt, as seen in its IRR. A mask does not hold back the request. */
static inline void pic_wait_for_request(uint16_t pic, int input)
{
    vmm_out8(pic, 0x0a); /* OCW3: read the IRR */
    while (!(vmm_in8(pic) >> input & 1))
        cpu_pause();
}

/* ---- Devices that interrupt ---- */

/* Starts channel 0 of the 8254, IRQ 0: 1193182 / count interrupts a second. */
static inline void pit_start(uint16_t count)
{
    vmm_out8(0x43, 0x34); /* channel 0, low byte and high byte, mode 2 */
    vmm_out8(0x40, (uint8_t)count);
    vmm_out8(0x40, (uint8_t)(count >> 8));
}

/* Reads register C of the clock: without this it raises no further interrupt. */
static inline void rtc_acknowledge(void)
{
    vmm_out8(0x70, 0x0c);
    vmm_in8(0x71);
}

/* Starts the periodic interrupt of the clock, IRQ 8: 1024 a second. */
static inline void rtc_start(void)
{
    vmm_out8(0x70, 0x0a);
    vmm_out8(0x71, 0x26);
    vmm_out8(0x70, 0x0b);
    vmm_out8(0x71, 0x42); /* bit 6: periodic interrupt */
    rtc_acknowledge();
}

#define SERIAL_LINE 4

/* Enables the interrupt "transmitter empty" of the serial port: it is raised at once, as nothing is being sent. */
static inline void serial_start(void)
{
    vmm_out8(VMM_COM1 + 1, 2);
}

/* Reads the cause of the interrupt, which ends it, and sends a byte, which is followed by the next one. */
static inline void serial_send(char byte)
{
    vmm_in8(VMM_COM1 + 2);
    vmm_out8(VMM_COM1, (uint8_t)byte);
}

#endif
