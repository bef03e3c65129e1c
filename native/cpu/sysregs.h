/* The table of system registers, for MRS and MSR (system.c) and for a vCPU's state (state.c). */
#ifndef TA_SYSREGS_H
#define TA_SYSREGS_H

#include "cpu.h"

#define SYSREG(op0, op1, crn, crm, op2)                                                       \
    ((uint32_t)(op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))

enum register_flags {
    EL0_READ = 1,
    EL0_WRITE = 2,
    STATE = 4,    /* part of a vCPU's state, under its ONE_REG id */
    CONSTANT = 8, /* says what the CPU is: `bits`, and no other value can be loaded */
    READ_ONLY = 16, /* to MSR; a state can change it */
};

enum sysreg_access { ACCESS_ALLOWED, ACCESS_UNDEFINED, ACCESS_TRAPPED, ACCESS_TRAPPED_FP };

/* A register as MRS and MSR see it. Decoding finds it once for each instruction word; what is
 * left to do when the instruction runs is to look at the exception level and to call. */
struct sysreg {
    uint32_t encoding;
    uint16_t offset; /* of its field in struct vcpu, if read_field() or write_field() is used */
    uint16_t flags;  /* enum register_flags */
    uint64_t bits;   /* those that a write changes; of a constant, its value */
    uint64_t (*read)(const struct vcpu *cpu, const struct sysreg *reg);              /* or NULL */
    void (*write)(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);       /* or NULL */
    enum sysreg_access (*check)(const struct vcpu *cpu); /* NULL: EL0 by the flags, EL1 always */
    /* What a state may bring; NULL: all that `bits` allow. */
    bool (*accepts)(const struct vcpu *cpu, uint64_t value);
};

/* NULL if this CPU does not have the register. */
const struct sysreg *find_sysreg(uint32_t encoding);
bool is_sysreg_field(const struct sysreg *reg); /* reading is a load from `offset` */
uint64_t read_sysreg_state(const struct vcpu *cpu, const struct sysreg *reg);
/* False for a value that the register cannot have. */
bool write_sysreg_state(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
void each_sysreg_state(void (*put)(void *context, uint32_t encoding), void *context);

/* --- what entries of the table share --- */

typedef uint64_t sysreg_read(const struct vcpu *cpu, const struct sysreg *reg);
typedef void sysreg_write(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
typedef enum sysreg_access sysreg_check(const struct vcpu *cpu);

sysreg_read read_field;
sysreg_write write_field;
/* EL1 decides whether EL0 may. */
enum sysreg_access if_enabled(const struct vcpu *cpu, uint64_t control, uint64_t enable);

/* --- pstate.c --- */

sysreg_read read_sp_el0, read_current_el, read_spsel, read_nzcv, read_daif, read_flag;
sysreg_write write_sp_el0, write_spsel, write_nzcv, write_daif, write_flag, write_pan, write_tco;
sysreg_check check_sp_el0, check_daif;

/* --- debug.c --- */

sysreg_read read_oslsr, read_claim_set;
sysreg_write write_debug, write_oslsr, write_oslar, write_claim_set, write_claim_clear;
sysreg_check check_channel;

#endif
