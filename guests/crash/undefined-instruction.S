/*
 * UD2: the instruction that is defined to be undefined. Compilers put it where the program can never be; the Linux
 * kernel marks its BUG() with it.
 */
        .globl _start
_start:
        ud2
