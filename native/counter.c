/* The frequency of this host's system counter, which guests of KVM see as their own. */
#include "tagalong.h"

uint64_t ta_counter_hz(void)
{
#ifdef __aarch64__
    uint64_t hz;
    __asm__("mrs %0, cntfrq_el0" : "=r"(hz)); /* Linux permits it at EL0, or does it for us */
    return hz;
#else
    return 0;
#endif
}
