/*
 * A write to a page whose R/W bit is clear. Ring 0 may do that as long as CR0.WP is clear; the machine sets it, as all
 * kernels do, and so ring 0 faults like everybody else.
 */
        .globl _start
_start:
        movl    0x40000000, %eax        # reading is fine
        movl    %eax, 0x40000000
        hlt
