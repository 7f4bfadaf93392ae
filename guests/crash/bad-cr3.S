/*
 * New page tables that map nothing. MOV to CR3 succeeds, as the CPU does not look at what is there. The next fetch
 * does: the PML4 entry is 0, #PF. And the IDT, a linear address too, has vanished like everything else.
 */
        .globl _start
_start:
        movl    $pml4, %eax
        movq    %rax, %cr3
        hlt

        .bss
        .balign 4096
pml4:   .skip   4096                    # nobody filled it
