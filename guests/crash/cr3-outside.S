/*
 * CR3 with an address outside memory: 1 GiB, where the machine has 2 MiB. No page table can be read there.
 */
        .globl _start
_start:
        movl    $0x40000000, %eax
        movq    %rax, %cr3
        hlt
