/*
 * A page-table entry with a bit that must be zero.
 *
 * The configuration puts the page tables at 0x10000, and the manifest says where that leads: ENTRY is the address of
 * the page-directory entry for the page of 2 MiB at 0x200000. In such an entry bits 13 to 20 are reserved (SDM vol. 3,
 * tables 4-10 and 4-18). The page is present, but the walk ends with a #PF whose error code has bit 3 set.
 */
        .globl _start
_start:
        orl     $0x2000, ENTRY
        invlpg  0x200000                # the CPU may still know the old entry
        movl    0x200000, %eax
        hlt
