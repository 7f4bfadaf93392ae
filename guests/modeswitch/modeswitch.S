/*
 * From real mode to protected mode to long mode, by the guest's own hand.
 *
 * The other guests are started in their mode by the monitor, which sets the registers from outside. Here the CPU walks
 * the way that every PC walks at power-on. Each step prints the mode that it reached.
 *   1. real -> protected: a GDT, CR0.PE, a far jump (SDM vol. 3, 9.9.1)
 *   2. protected -> long: CR4.PAE, page tables, EFER.LME, CR0.PG, a far jump (SDM vol. 3, 9.8.5)
 */
#include "vmm.h"

#define CODE32 0x08
#define DATA 0x10
#define CODE64 0x18

#define CR0_PE 0x00000001
#define CR0_PG 0x80000000
#define CR4_PAE 0x00000020
#define MSR_EFER 0xc0000080
#define EFER_LME 0x00000100

/* Prints the bytes from ESI up to a NUL. The encoding differs by mode, so it is a macro and not a function. */
.macro  print text
        .pushsection .rodata
1:      .asciz  "\text"
        .popsection
        movl    $1b, %esi
        cld
2:      lodsb
        testb   %al, %al
        jz      3f
        outb    %al, $VMM_DEBUG_CONSOLE
        jmp     2b
3:
.endm

/* Step 0: 16-bit code, segment bases of 0. */
        .code16
        .globl _start
_start:
        cli
        xorw    %ax, %ax
        movw    %ax, %ds
        print   "real mode\n"

        lgdtl   gdt_pointer
        movl    %cr0, %eax
        orl     $CR0_PE, %eax
        movl    %eax, %cr0
        ljmpl   $CODE32, $protected     # loads CS: from here on the descriptor's D bit counts

/* Step 1: 32-bit code, flat segments, no paging. */
        .code32
protected:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    $stack_top, %esp
        print   "protected mode\n"

        /* One 2 MiB page, virtual 0 to physical 0, at the end of three tables. */
        movl    $(pdpt + 3), pml4       # 3: present, writable
        movl    $(pd + 3), pdpt
        movl    $0x83, pd               # 0x80: a page, not a table
        movl    $pml4, %eax
        movl    %eax, %cr3
        movl    %cr4, %eax
        orl     $CR4_PAE, %eax
        movl    %eax, %cr4
        movl    $MSR_EFER, %ecx
        rdmsr
        orl     $EFER_LME, %eax
        wrmsr
        movl    %cr0, %eax
        orl     $CR0_PG, %eax           # with LME set this activates long mode, in its 32-bit submode
        movl    %eax, %cr0
        ljmpl   $CODE64, $long

/* Step 2: 64-bit code. The stack segment and its pointer stay as they are. */
        .code64
long:
        print   "long mode\n"
        movl    $42, 0x400
        /* Proof: in 16 or 32 bits this instruction does not exist, and the upper half would be lost. */
        movabsq $0x2a0000002a, %rax
        movq    %rax, %rbx
        shrq    $32, %rbx
        movl    %eax, %eax
        hlt

        .section .rodata
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # CODE32: base 0, limit 4 GiB, code, D = 1
        .quad   0x00cf93000000ffff      # DATA: base 0, limit 4 GiB, writable
        .quad   0x00af9b000000ffff      # CODE64: code, L = 1
gdt_pointer:
        .word   gdt_pointer - gdt - 1
        .long   gdt

        .bss
        .balign 4096
pml4:   .skip   4096
pdpt:   .skip   4096
pd:     .skip   4096
        .skip   1024
stack_top:
