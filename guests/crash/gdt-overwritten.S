/*
 * The GDT is cleared by accident. Nothing happens at first, as the CPU keeps what it read in hidden parts of the
 * segment registers. The next load of a segment register reads the table again: #GP, far from the true mistake.
 */
        .globl _start
_start:
        sgdt    pointer
        movl    pointer + 2, %edi       # behind the limit: the base
        xorl    %eax, %eax
        movl    $48, %ecx
        cld
        rep stosb                       # the mistake
        movw    $0x10, %ax
        movw    %ax, %ds                # the crash
        hlt

        .data
pointer:
        .skip   6
