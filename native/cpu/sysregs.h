/* The table of system registers, for those that execute MRS and MSR and those that save state. */
#ifndef TA_SYSREGS_H
#define TA_SYSREGS_H

#include "cpu.h"

enum register_flags {
    EL0_READ = 1,
    EL0_WRITE = 2,
    READ_ONLY = 4,
    REGIME = 8, /* a write changes how memory is reached */
};

struct sysreg {
    uint32_t encoding;
    uint16_t offset; /* in struct vcpu */
    uint8_t flags;
    uint64_t mask; /* bits that can be set */
};

/* NULL if there is no such register that can be written. */
const struct sysreg *find_sysreg(uint32_t encoding);
/* Registers with a fixed value; false if this is none. */
bool find_sysreg_constant(const struct vcpu *cpu, uint32_t encoding, uint64_t *value);
uint64_t *sysreg_field(struct vcpu *cpu, const struct sysreg *reg);
void after_sysreg_write(struct vcpu *cpu, const struct sysreg *reg);
bool is_sysreg_state(const struct sysreg *reg);
void each_sysreg_state(void (*put)(void *context, uint32_t encoding), void *context);

#endif
