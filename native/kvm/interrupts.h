/* An interrupt status as the code in this folder sees it. */
#ifndef TAGALONG_KVM_INTERRUPTS_H
#define TAGALONG_KVM_INTERRUPTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

struct ta_interrupts {
    pthread_mutex_t lock;
    _Atomic uint32_t reasons;
    uint32_t irq; /* as KVM_IRQ_LINE takes it */
    int vm;       /* the VM whose line it is, -1: none, the caller follows the reasons */
    uint64_t gpa; /* of the device's window */
};

#endif
