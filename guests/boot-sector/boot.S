/*
 * A boot sector without a BIOS: 512 bytes of 16-bit code for address 0x7c00, where a PC's firmware would load them.
 *
 * The file is flat: no header, no symbols, the first byte is the first instruction. There is no INT 0x10 to print with,
 * since nobody filled the interrupt vectors; the debug console takes its place.
 */
#include "vmm.h"

        .code16
        .globl _start
_start:
        xorw    %ax, %ax                # segment bases of 0: DS:SI is then the address in SI
        movw    %ax, %ds
        movw    $message, %si
        movw    $VMM_DEBUG_CONSOLE, %dx
        cld
next:   lodsb                           # AL = [DS:SI], SI += 1
        testb   %al, %al
        jz      done
        outb    %al, %dx
        jmp     next
done:   movl    $42, 0x400
        movl    $42, %eax
        hlt

message:
        .asciz  "Hello from 512 bytes!\n"

        .org    _start + 510            # the signature a BIOS looks for at the end of the sector
        .word   0xaa55
