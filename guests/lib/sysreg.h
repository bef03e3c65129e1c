/* System registers and barriers. */
#ifndef SYSREG_H
#define SYSREG_H

#include "types.h"

#define SYSREG_READ(name)                                                                     \
    ({                                                                                        \
        u64 value_;                                                                           \
        __asm__ volatile("mrs %0, " #name : "=r"(value_) : : "memory");                       \
        value_;                                                                               \
    })

#define SYSREG_WRITE(name, value)                                                             \
    do {                                                                                      \
        u64 value_ = (value);                                                                 \
        __asm__ volatile("msr " #name ", %0\n\tisb" : : "r"(value_) : "memory");              \
    } while (0)

/* PSTATE.TCO by immediate, as tagging code uses it around a few accesses. */
#define TCO_SET() __asm__ volatile("msr tco, #1" : : : "memory")
#define TCO_CLEAR() __asm__ volatile("msr tco, #0" : : : "memory")

#define SCTLR_ATA (1UL << 43)
#define SCTLR_ATA0 (1UL << 42)
#define SCTLR_TCF_SHIFT 40
#define SCTLR_TCF0_SHIFT 38
#define SCTLR_TCF_MASK (3UL << SCTLR_TCF_SHIFT)
#define SCTLR_DZE (1UL << 14)

/* SCTLR_EL1.TCF and TCF0. */
enum tag_check_mode { TCF_NONE = 0, TCF_SYNC = 1, TCF_ASYNC = 2, TCF_ASYMMETRIC = 3 };

#define PSTATE_TCO (1UL << 25)
#define PSTATE_EL1H_MASKED 0x3c5UL

static inline u64 sysreg_field(u64 value, unsigned low, unsigned bits) {
    return value >> low & ((1UL << bits) - 1);
}

static inline void barrier_all(void) {
    __asm__ volatile("dsb sy\n\tisb" : : : "memory");
}

static inline void tlb_flush(void) {
    __asm__ volatile("dsb ishst\n\ttlbi vmalle1\n\tdsb ish\n\tisb" : : : "memory");
}

static inline void cpu_relax(void) {
    __asm__ volatile("yield" : : : "memory");
}

#endif
