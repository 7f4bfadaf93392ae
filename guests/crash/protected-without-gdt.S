/*
 * From real to protected mode, and LGDT was forgotten: the mistake of many first kernels.
 *
 * Setting CR0.PE works. The far jump then looks for descriptor 0x08 in the GDT, which after reset is at address 0:
 * there it finds the vector table of real mode, all zeros. #GP; and since IDTR still means that table too, no handler.
 */
        .code16
        .globl _start
_start:
        cli
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmp    $0x08, $1f
1:      hlt
