/*
 * One entry of an IDT: where the CPU goes for a vector, and as what (SDM vol. 3, 6.11 and 6.14.1).
 *
 * A gate has its handler's address in pieces. The code is linked at 0x100000, so the lower 16 bits of an address are
 * its distance from _start, and the next 16 are 0x10. FLAGS: bit 7 is P (present), bits 0 to 3 are the type, 0xe for
 * an interrupt gate. 0x08 is the code segment in the GDT that the machine starts with.
 */
.macro  gate handler, selector=0x08, ist=0, flags=0x8e
        .word   \handler - _start, \selector
        .byte   \ist, \flags
        .word   0x10
#ifdef __x86_64__
        .quad   0
#endif
.endm

/* A gate of zeros, not present, for each of COUNT vectors. */
.macro  no_gates count
#ifdef __x86_64__
        .fill   \count * 2, 8, 0
#else
        .fill   \count, 8, 0
#endif
.endm
