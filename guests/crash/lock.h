/* A spinlock: 1 while it is held. */
#ifndef LOCK_H
#define LOCK_H

#include "interrupts.h"

NOINLINE static void acquire(volatile int *lock)
{
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE) != 0)
        cpu_pause();
}

static inline void release(volatile int *lock)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

#endif
