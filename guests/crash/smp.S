/*
 * What the second CPU runs between SIPI and its C function (smp.h): from real mode to long mode, as guests/modeswitch
 * explains, with the page tables of the first CPU. It has no IDT yet.
 */
#define CODE64          0x08            /* as in the GDT of the first CPU: gates of the IDT have this selector */
#define DATA            0x10
#define CODE32          0x18

        .globl  ap_start, ap_start_end
        .code16
ap_start:
        cli
        movw    %cs, %ax
        movw    %ax, %ds
        lgdtl   ap_gdt_pointer - ap_start
        movl    %cr0, %eax
        orl     $1, %eax                # PE
        movl    %eax, %cr0
        ljmpl   $CODE32, $ap_start_32
        .balign 4
ap_gdt_pointer:
        .word   ap_gdt_end - ap_gdt - 1
        .long   ap_gdt
ap_start_end:

        .code32
ap_start_32:
        movw    $DATA, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        movl    %cr4, %eax
        orl     $0x20, %eax             # PAE
        movl    %eax, %cr4
        movl    ap_cr3, %eax
        movl    %eax, %cr3
        movl    $0xc0000080, %ecx       # EFER
        rdmsr
        orl     $0x100, %eax            # LME
        wrmsr
        movl    %cr0, %eax
        orl     $0x80000000, %eax       # PG
        movl    %eax, %cr0
        ljmpl   $CODE64, $ap_start_64

        .code64
        .type   ap_start_64, @function
ap_start_64:
        movl    $ap_stack_end, %esp
        call    *ap_function
1:      cli
        hlt
        jmp     1b
        .size   ap_start_64, . - ap_start_64

        .data
        .balign 8
ap_gdt: .quad   0
        .quad   0x00af9b000000ffff      # code, 64-bit
        .quad   0x00cf93000000ffff      # data, flat
        .quad   0x00cf9b000000ffff      # code, flat, 32-bit
ap_gdt_end:

        .globl  ap_cr3, ap_function
        .balign 8
ap_function:
        .quad   0
ap_cr3: .long   0

        .bss
        .balign 16
        .skip   4096
ap_stack_end:
