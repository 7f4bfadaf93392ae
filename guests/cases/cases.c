/*
 * A kernel with tests. It boots, which takes its time, and then runs one test: the one whose number comes in RDI.
 *
 * With `test.snapshot-at = "run_test"` it boots once: each case begins with a copy of the machine in which RDI, the first
 * argument of a C function, is the number of the case.
 */
#include "vmm.h"

#define LENGTH 512

static uint32_t table[LENGTH];

/* What a boot is here: work whose result all tests need. */
static void boot(void)
{
    table[0] = 1;
    for (int i = 1; i < LENGTH; i++)
        table[i] = table[i - 1] * 1664525 + 1013904223;
    vmm_puts("booted\n");
}

static int the_table_begins_with_one(void)
{
    return table[0] == 1;
}

static int the_table_follows_its_rule(void)
{
    for (int i = 1; i < LENGTH; i++)
        if (table[i] != table[i - 1] * 1664525 + 1013904223)
            return 0;
    return 1;
}

/* Only the first test that writes here would pass, if the copies were one machine. */
static int nobody_was_here_before(void)
{
    volatile uint32_t *place = &table[LENGTH / 2];
    int untouched = *place != 0xdead;

    *place = 0xdead;
    return untouched;
}

static int (*const tests[])(void) = {
    the_table_begins_with_one,
    the_table_follows_its_rule,
    nobody_was_here_before,
    nobody_was_here_before,
};

__attribute__((noinline, used)) void run_test(uint64_t number)
{
    vmm_exit(number < sizeof tests / sizeof *tests && tests[number]() ? 0 : 1);
}

_Noreturn void _start(void)
{
    boot();
    run_test(0);
    vmm_halt(0);
}
