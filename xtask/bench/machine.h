/*
 * Baseline for a VMM: a machine in long mode, created with bare ioctls and without error handling.
 *
 * `cargo xtask bench` compares vmm-cli with programs that include this file. With -DNO_LIBC they use no C library: this file
 * makes the system calls, and nothing runs before `_start`. Each program exits with `leave`.
 */
#ifndef MACHINE_H
#define MACHINE_H

#include <stddef.h>
#include <stdint.h>
#include <linux/kvm.h>

#ifdef NO_LIBC
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/mman.h>

static inline long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "+a"(number)
                     : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return number;
}

static inline int open(const char *path, int flags)
{
    return call(__NR_open, (long)path, flags, 0, 0, 0, 0);
}

#define ioctl(fd, request, argument) control(fd, request, (long)(argument))
static inline int control(int fd, long request, long argument)
{
    return call(__NR_ioctl, fd, request, argument, 0, 0, 0);
}

static inline void *mmap(void *at, size_t size, int protection, int flags, int fd, long offset)
{
    return (void *)call(__NR_mmap, (long)at, size, protection, flags, fd, offset);
}

static inline long write(int fd, const void *bytes, size_t size)
{
    return call(__NR_write, fd, (long)bytes, size, 0, 0, 0);
}

static inline void leave(int status)
{
    call(__NR_exit_group, status, 0, 0, 0, 0, 0);
    __builtin_unreachable();
}
#else
#include <fcntl.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#define leave(status) exit(status)
#endif

#define CODE 0x100000
#define TABLES 0x1000 /* PML4, PDPT, and a page directory for each GiB */
#define STACK 0x1000  /* grows down */
#define TSS 0x10000

/* Guest: position-independent assembly from guests/, linked into this program. */
extern const uint8_t guest[], guest_end[];

static struct kvm_run *run;
static uint8_t *memory;
static int vm, vcpu;

static inline void store(uint32_t address, uint64_t value)
{
    *(volatile uint64_t *)(memory + address) = value;
}

/* Identity-maps 2 MiB for all rings. The address is below 4 GiB and may be outside of memory. */
static inline void map_2_mib(uint32_t address)
{
    uint32_t directory = TABLES + 0x2000 + (address >> 30) * 0x1000;
    store(TABLES, (TABLES + 0x1000) | 7); /* present, writable, user */
    store(TABLES + 0x1000 + (address >> 30) * 8, directory | 7);
    store(directory + (address >> 21) % 512 * 8, address | 0x87);
}

/* Hidden part of a segment register: code or data of 4 GiB. */
static inline struct kvm_segment flat(uint16_t selector, uint8_t type, uint8_t is_64_bit)
{
    return (struct kvm_segment){ .selector = selector, .type = type, .present = 1, .s = 1, .dpl = selector & 3,
                                 .l = is_64_bit, .db = !is_64_bit, .g = 1, .limit = 0xffffffff };
}

/* Creates the VM and its memory, a multiple of 2 MiB, and copies the guest's code into it. */
static inline int make(size_t size)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct kvm_userspace_memory_region region = { .memory_size = size, .userspace_addr = (uintptr_t)memory };
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
    for (ptrdiff_t i = 0; i < guest_end - guest; i++)
        ((volatile uint8_t *)memory)[CODE + i] = guest[i];
    for (size_t address = 0; address < size; address += 2 << 20)
        map_2_mib(address);
    return kvm;
}

/* Creates the vCPU and sets it to long mode in the given ring, at the guest's first instruction. */
static inline void enter(int kvm, int ring, struct kvm_regs regs)
{
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cr0 = 0x80000011; /* PG, ET, PE */
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x20;   /* PAE */
    sregs.efer = 0x500; /* LMA, LME */
    sregs.cs = flat(0x08 | ring, 11, 1);
    sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = flat(0x10 | ring, 3, 0);
    if (ring == 3) {
        /* A 64-bit TSS followed by an I/O bitmap of zeros, which allows all ports. */
        sregs.tr = (struct kvm_segment){ .base = TSS, .limit = 104 + 8192, .selector = 0x18, .type = 11, .present = 1 };
        *(volatile uint16_t *)(memory + TSS + 102) = 104;
        memory[TSS + 104 + 8192] = 0xff;
    }
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    regs.rflags = 2;
    regs.rsp = STACK;
    ioctl(vcpu, KVM_SET_REGS, &regs);
}

#endif
