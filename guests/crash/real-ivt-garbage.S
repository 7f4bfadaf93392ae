/*
 * The vector table of real mode, overwritten with the letter A. It lies at address 0, where each null pointer hits it.
 *
 * UD2 takes vector 6, which is now 4141:4141: the CPU jumps to 0x41410 + 0x4141 = 0x45551. The machine has 256 KiB of
 * memory, up to 0x40000. There is no code to fetch.
 */
        .code16
        .globl _start
_start:
        xorw    %di, %di
        movw    %di, %es
        movb    $'A', %al
        movw    $0x400, %cx             # 256 vectors of 4 bytes
        cld
        rep stosb
        ud2
