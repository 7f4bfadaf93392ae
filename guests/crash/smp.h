/* The start of the second CPU, for guests in C. Link with smp.S. */
#ifndef SMP_H
#define SMP_H

#include "interrupts.h"

#define AP_ID 1           /* the local APIC ID of the second CPU */
#define AP_PAGE 0x20      /* it starts in real mode at this number times 4096 */

extern uint8_t ap_start[], ap_start_end[]; /* smp.S */
extern uint32_t ap_cr3;
extern void (*volatile ap_function)(void);

static inline void short_delay(void)
{
    for (int i = 0; i < 2000; i++)
        cpu_pause();
}

/* Puts in place what the second CPU runs: smp.S, then `function` on the page tables of this CPU. */
static inline void prepare_ap(void (*function)(void))
{
    volatile uint8_t *to = (uint8_t *)(AP_PAGE * 4096ul);
    uint64_t cr3;

    __asm__ volatile("movq %%cr3, %0" : "=r"(cr3));
    ap_cr3 = (uint32_t)cr3;
    ap_function = function;
    for (uint8_t *from = ap_start; from < ap_start_end; from++)
        *to++ = *from;
}

/* Starts the second CPU by INIT, SIPI, SIPI (SDM vol. 3, 8.4.4). */
static inline void start_ap(void (*function)(void))
{
    prepare_ap(function);
    apic_send(AP_ID, ICR_INIT);
    short_delay();
    apic_send(AP_ID, ICR_SIPI | AP_PAGE);
    short_delay();
    apic_send(AP_ID, ICR_SIPI | AP_PAGE);
}

#endif
