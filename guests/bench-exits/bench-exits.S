/*
 * Loops of exits, one for each kind, to time what one exit costs.
 *
 * RDI holds the number of exits, for string instructions that of bytes; the entry chooses the kind. All end with a write
 * to the exit port, which ring 3 can do as well as ring 0. Nobody answers at port 0x80 and at 0xd0000800, so no device's work
 * is in the time; the console's loop goes through a device.
 *
 * The floor programs of `cargo xtask bench` (xtask/bench/) are linked with this file and copy it into their guest's
 * memory, so it is free of addresses. `guest_end` tells them how much to copy.
 */
#include "vmm.h"

#define NOBODY 0x80
#define NOWHERE 0xd0000800

        .globl _start, out, in, mmio_write, mmio_read, rep_outsb, console, guest_end
_start:
out:    outb    %al, $NOBODY
        decq    %rdi
        jnz     out
        jmp     end

in:     inb     $NOBODY, %al
        decq    %rdi
        jnz     in
        jmp     end

mmio_write:
        movl    $NOWHERE, %ebx
1:      movl    %eax, (%rbx)
        decq    %rdi
        jnz     1b
        jmp     end

mmio_read:
        movl    $NOWHERE, %ebx
1:      movl    (%rbx), %eax
        decq    %rdi
        jnz     1b
        jmp     end

/* RDI bytes in strings of 1024, all from the start of this code. */
rep_outsb:
        cld
        movl    $NOBODY, %edx
1:      leaq    _start(%rip), %rsi
        movl    $1024, %ecx
        rep outsb
        subq    $1024, %rdi
        ja      1b
        jmp     end

console:
        movb    $'.', %al
1:      outb    %al, $VMM_DEBUG_CONSOLE
        decq    %rdi
        jnz     1b

end:    xorl    %eax, %eax
        outb    %al, $VMM_DEBUG_EXIT
        hlt                             /* not reached */
guest_end:
