/* PSCI over HVC (Arm DEN0022), SMC Calling Convention. */
#ifndef PSCI_H
#define PSCI_H

#include "types.h"

#define PSCI_VERSION 0x84000000UL
#define PSCI_CPU_OFF 0x84000002UL
#define PSCI_CPU_ON 0xc4000003UL
#define PSCI_AFFINITY_INFO 0xc4000004UL
#define PSCI_SYSTEM_OFF 0x84000008UL
#define PSCI_FEATURES 0x8400000aUL

#define PSCI_SUCCESS 0
#define PSCI_NOT_SUPPORTED (-1)
#define PSCI_INVALID_PARAMETERS (-2)
#define PSCI_ALREADY_ON (-4)

#define PSCI_AFFINITY_ON 0
#define PSCI_AFFINITY_OFF 1

/* Results are 32 bits wide in half of the calls: callers compare them as int. */
static inline int psci_call(u64 function, u64 first, u64 second, u64 third) {
    register u64 x0 __asm__("x0") = function;
    register u64 x1 __asm__("x1") = first;
    register u64 x2 __asm__("x2") = second;
    register u64 x3 __asm__("x3") = third;
    __asm__ volatile("hvc #0"
                     : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)
                     :
                     : "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
                       "x15", "x16", "x17", "memory");
    return (int)x0;
}

_Noreturn static inline void psci_system_off(void) {
    psci_call(PSCI_SYSTEM_OFF, 0, 0, 0);
    for (;;)
        __asm__ volatile("wfi");
}

#endif
