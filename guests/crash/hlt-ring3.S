/*
 * HLT outside ring 0. It would stop the CPU for everybody, so it is privileged: #GP.
 */
        .globl _start
_start:
        hlt
