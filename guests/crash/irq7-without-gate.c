/*
 * A pulse on line 7 arrives through the 8259 at vector 0x27, which has no gate. A kernel sees such an interrupt when a line is
 * lowered before the CPU acknowledges it (spurious interrupt); here the test device pulls the line. There are no gates for
 * exceptions.
 */
#include "interrupts.h"

#define TEST_DEVICE_LINE_7 0x2007

int main(void)
{
    load_idt(); /* the mistake: all gates are empty, and input 7 is not masked */
    pic_init(0x20, 0x7f, 0xff);
    enable_interrupts();
    vmm_out8(TEST_DEVICE_LINE_7, 1);
    vmm_out8(TEST_DEVICE_LINE_7, 0);
    for (int i = 0; i < 100; i++)
        cpu_pause();
    return done();
}
