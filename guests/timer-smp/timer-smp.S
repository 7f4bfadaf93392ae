/*
 * Two CPUs, each of which counts ten ticks of the timer of its own local APIC and sleeps in between.
 *
 * The second CPU waits after reset until the first sends it INIT and then SIPI (SDM vol. 3, 8.4.4). SIPI carries a
 * number: the CPU begins in real mode at that number times 4096, here in `trampoline`, which is copied to 0x8000. From
 * there it goes the way to long mode that guests/modeswitch explains, with the page tables of the first CPU.
 *
 * With FOREVER defined it never ends: the first CPU prints a dot on the serial port at each of its ticks.
 */
#include "apic.h"

#define INIT_OTHERS     0xc4500         /* to all but self, edge, assert, INIT */
#define SIPI_OTHERS     0xc4608         /* the same, SIPI, page 8 */
#define TIMER_VECTOR    0x40
#define TICKS           10

#define CODE32          0x08
#define DATA            0x10
#define CODE64          0x18

        .code64
        .globl  _start
_start:
        movb    $0xff, %al              # the two PICs stay silent
        outb    %al, $0x21
        outb    %al, $0xa1
        lgdt    gdt_pointer             # one GDT for both CPUs
        pushq   $CODE64
        pushq   $1f
        lretq
1:
        movl    $timer_entry, %eax      # the gate's offset comes in parts; the highest is 0
        movw    %ax, gate
        shrl    $16, %eax
        movw    %ax, gate + 6
        lidt    idt_pointer

        movq    %cr3, %rax
        movl    %eax, page_tables
        movl    $trampoline, %esi
        movl    $0x8000, %edi
        movl    $trampoline_end - trampoline, %ecx
        cld
        rep movsb

        movl    $APIC, %ebx
        movl    $first_ticks, %edi
        call    start_timer
        movl    $INIT_OTHERS, APIC_ICR_LOW(%rbx)
        movl    $SIPI_OTHERS, APIC_ICR_LOW(%rbx)

1:      sti                             # STI takes effect after HLT: no tick is lost in between
        hlt
        cli
#ifdef FOREVER
        movw    $0x3f8, %dx
        movb    $'.', %al
        outb    %al, %dx
        jmp     1b
#endif
        cmpl    $TICKS, first_ticks
        jb      1b
        cmpl    $TICKS, second_ticks
        jb      1b

        movl    $message, %esi
        movl    $message_end - message, %ecx
        movw    $0xe9, %dx
        rep outsb
        xorl    %eax, %eax
        outb    %al, $0xf4              # the end: code 0
        hlt

/* Switches this CPU's APIC and its timer on. %rdi, the address of its counter, and %rbx, the APIC's, stay. */
start_timer:
        start_apic_timer TIMER_VECTOR
        ret

/* A tick. It comes when the CPU sleeps, so %rdi is still the counter's address. */
timer_entry:
        incl    (%rdi)
        movl    $0, APIC_EOI(%rbx)
        iretq

/* The second CPU, in real mode at 0800:0000. */
        .code16
trampoline:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   gdt_pointer_16 - trampoline
        movl    %cr0, %eax
        orl     $1, %eax                # PE
        movl    %eax, %cr0
        ljmpl   $CODE32, $second_32
        .balign 4
gdt_pointer_16:
        .word   gdt_end - gdt - 1
        .long   gdt
trampoline_end:

        .code32
second_32:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    %cr4, %eax
        orl     $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    page_tables, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x100, %eax            # LME
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax       # PG
        movl    %eax, %cr0
        ljmpl   $CODE64, $second_64

        .code64
second_64:
        movl    $second_stack_end, %esp
        lidt    idt_pointer
        movl    $APIC, %ebx
        movl    $second_ticks, %edi
        call    start_timer
1:      sti
        hlt
        jmp     1b

        .data
        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff      # code, flat, 32-bit
        .quad   0x00cf93000000ffff      # data, flat
        .quad   0x00af9b000000ffff      # code, 64-bit
gdt_end:
gdt_pointer:
        .word   gdt_end - gdt - 1
        .quad   gdt

        .balign 16
idt:    .fill   TIMER_VECTOR * 2, 8, 0
gate:   .word   0, CODE64, 0x8e00, 0    # present, ring 0, interrupt gate
        .quad   0
idt_end:
idt_pointer:
        .word   idt_end - idt - 1
        .quad   idt

page_tables:    .long 0
first_ticks:    .long 0
second_ticks:   .long 0
message:        .ascii "both CPUs counted their ticks\n"
message_end:

        .bss
        .balign 16
        .skip   1024
second_stack_end:
