/*
 * What a guest can say to the machine it runs on, for C and assembly in 16, 32 and 64 bits.
 *
 * Four devices listen, each at the port it has unless the TOML file moves it:
 *   0xe9         debug console: each byte written is printed
 *   0x3f8        a 16550 serial port (COM1): prints what is sent, receives what is typed
 *   0xf4         exit port: a write of v ends the run with the code v * 2 + 1, as QEMU's isa-debug-exit
 *   0x500-0x53f  hypercall registers: 16 registers at offsets 0x00 to 0x3c, described below
 *
 * Assembly files get the constants, C files the functions too. A guest for 16 bits is compiled with flat pointers: all
 * segment bases are 0, and an address is below 0x10000.
 */
#ifndef VMM_H
#define VMM_H

#define VMM_DEBUG_CONSOLE 0xe9
#define VMM_COM1 0x3f8
#define VMM_DEBUG_EXIT 0xf4
#define VMM_HYPERCALL 0x500

/*
 * The hypercall registers: offsets from VMM_HYPERCALL. OUT is guest to machine, IN is machine to guest. All are 32 bits
 * wide but the first. A GVA is an address as the guest sees it, translated by the guest's own page tables.
 */
#define VMM_PRINT_BYTE 0x00   /* OUT, 8 bits: print the byte */
#define VMM_PRINT_NUMBER 0x04 /* OUT: print the number in decimal */
#define VMM_ADDRESS_HIGH 0x08 /* OUT: upper half of the addresses that follow; kept until changed, 0 at the start */
#define VMM_PRINT_STRING 0x0c /* OUT: print the NUL-terminated string at this GVA, at most 64 KiB */
#define VMM_EXIT_COUNT 0x10   /* IN: number of exits so far, this one included, low 32 bits */
#define VMM_LENGTH 0x14       /* OUT: size in bytes of the buffer for the next two */
#define VMM_EXIT_STATS 0x18   /* OUT: write the exits by type, as text with a NUL, to the buffer at this GVA */
#define VMM_ARGUMENTS 0x1c    /* OUT: write the arguments, each with a NUL, then one more NUL, to the buffer at this GVA */
#define VMM_TRANSLATE 0x20    /* OUT: translate this GVA */
#define VMM_RESULT_LOW 0x24   /* IN: physical address of the last translation, or bytes written by the last text call */
#define VMM_RESULT_HIGH 0x28  /* IN: its upper half */
#define VMM_STATUS 0x2c       /* IN: how the last call went: VMM_OK and the values after it */
#define VMM_HOST_LOW 0x30     /* IN: address of the last translation in the monitor's own process, with host-addresses = true */
#define VMM_HOST_HIGH 0x34    /* IN: its upper half */
#define VMM_EXIT 0x38         /* OUT: end the run with this code */
#define VMM_SIGNATURE 0x3c    /* IN: VMM_SIGNATURE_VALUE, if the device is there */

#define VMM_OK 0           /* done */
#define VMM_BAD_ADDRESS 1  /* the address is not mapped, or no memory is there */
#define VMM_TOO_SMALL 2    /* the text did not fit; it was cut and still ends with a NUL */
#define VMM_NO_NUL 3       /* no NUL within 64 KiB */
#define VMM_BAD_REGISTER 4 /* wrong width, no such register, or host addresses are not shown */

#define VMM_SIGNATURE_VALUE 0x484d4d56 /* "VMMH" in memory order */

/*
 * VMM_CONFIGURATION("FILE"); puts FILE, the text of a configuration, into a note of the ELF file (docs/testing.md). A note
 * is three words (sizes of owner and text, number), the owner, the text. It takes no memory of the guest's.
 */
#ifdef __ASSEMBLER__
#define VMM_CONFIGURATION(file) .pushsection .note.vmm, "", @note; .balign 4; .long 4, 2f - 1f, 1; .asciz "vmm"; \
    1: .incbin file; 2: .balign 4; .popsection
#else
#define VMM_CONFIGURATION(file) \
    __asm__(".pushsection .note.vmm, \"\", @note\n.balign 4\n.long 4, 2f - 1f, 1\n.asciz \"vmm\"\n" \
            "1: .incbin \"" file "\"\n2: .balign 4\n.popsection")
#endif

#ifndef __ASSEMBLER__

#include <stdint.h>

static inline void vmm_out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void vmm_out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t vmm_in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t vmm_in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

/* Prints on the debug console, a byte at a time. */
static inline void vmm_puts(const char *text)
{
    while (*text != '\0')
        vmm_out8(VMM_DEBUG_CONSOLE, (uint8_t)*text++);
}

/*
 * Stops the vCPU, with `eax` for whoever looks at the registers then. Ring 0 only. Interrupts are off from the start, so
 * nothing wakes it; the loop is for a monitor that runs it again all the same.
 */
static inline _Noreturn void vmm_halt(uint32_t eax)
{
    for (;;)
        __asm__ volatile("hlt" : : "a"(eax) : "memory");
}

/* Hands `address` to one of the registers that take a GVA and returns the status of the call. */
static inline uint32_t vmm_call(uint16_t offset, uintptr_t address)
{
#ifdef __x86_64__
    vmm_out32(VMM_HYPERCALL + VMM_ADDRESS_HIGH, (uint32_t)(address >> 32));
#endif
    vmm_out32(VMM_HYPERCALL + offset, (uint32_t)address);
    return vmm_in32(VMM_HYPERCALL + VMM_STATUS);
}

/* Two 32-bit registers read as one number. */
static inline uint64_t vmm_in64(uint16_t low, uint16_t high)
{
    return (uint64_t)vmm_in32(VMM_HYPERCALL + high) << 32 | vmm_in32(VMM_HYPERCALL + low);
}

/* Whether the hypercall registers are there. */
static inline int vmm_present(void)
{
    return vmm_in32(VMM_HYPERCALL + VMM_SIGNATURE) == VMM_SIGNATURE_VALUE;
}

static inline void vmm_print_byte(char byte)
{
    vmm_out8(VMM_HYPERCALL + VMM_PRINT_BYTE, (uint8_t)byte);
}

static inline void vmm_print_number(uint32_t number)
{
    vmm_out32(VMM_HYPERCALL + VMM_PRINT_NUMBER, number);
}

/* Prints `value` as 0x and `digits` hexadecimal digits; the number register knows decimal only. */
static inline void vmm_print_hex(uint64_t value, int digits)
{
    vmm_print_byte('0');
    vmm_print_byte('x');
    for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4)
        vmm_print_byte("0123456789abcdef"[value >> shift & 15]);
}

/* One exit for the whole string, where vmm_puts has one for each byte. Returns a status. */
static inline uint32_t vmm_print_string(const char *text)
{
    return vmm_call(VMM_PRINT_STRING, (uintptr_t)text);
}

static inline uint32_t vmm_exit_count(void)
{
    return vmm_in32(VMM_HYPERCALL + VMM_EXIT_COUNT);
}

/* Fills `buffer` with the number of exits by type, as text. Returns a status. */
static inline uint32_t vmm_exit_stats(char *buffer, uint32_t length)
{
    vmm_out32(VMM_HYPERCALL + VMM_LENGTH, length);
    return vmm_call(VMM_EXIT_STATS, (uintptr_t)buffer);
}

/* Fills `buffer` with the arguments: "first\0second\0\0". Returns a status. */
static inline uint32_t vmm_arguments(char *buffer, uint32_t length)
{
    vmm_out32(VMM_HYPERCALL + VMM_LENGTH, length);
    return vmm_call(VMM_ARGUMENTS, (uintptr_t)buffer);
}

/* Translates `address` as the guest's page tables do. Returns a status; `*physical` is set when it is VMM_OK. */
static inline uint32_t vmm_translate(uintptr_t address, uint64_t *physical)
{
    uint32_t status = vmm_call(VMM_TRANSLATE, address);
    if (status == VMM_OK)
        *physical = vmm_in64(VMM_RESULT_LOW, VMM_RESULT_HIGH);
    return status;
}

/*
 * Where the byte of the last translation lies in the monitor's own address space. All ones, and status VMM_BAD_REGISTER,
 * unless the configuration has devices.hypercall.host-addresses = true.
 */
static inline uint64_t vmm_host_address(void)
{
    return vmm_in64(VMM_HOST_LOW, VMM_HOST_HIGH);
}

/* Ends the run; works in ring 3 too. Codes 0 to 99 become the exit status of `vmm-cli run`. */
static inline _Noreturn void vmm_exit(uint32_t code)
{
    for (;;)
        vmm_out32(VMM_HYPERCALL + VMM_EXIT, code);
}

#endif /* __ASSEMBLER__ */
#endif /* VMM_H */
