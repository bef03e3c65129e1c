/* The CPU interface's registers, for the table of system registers (sysregs.c). */
#ifndef TA_GIC_INTERFACE_H
#define TA_GIC_INTERFACE_H

#include "cpu.h"
#include "sysregs.h"

/* ICC_*_EL1, by encoding. */
enum icc_register {
    ICC_PMR = SYSREG(3, 0, 4, 6, 0),
    ICC_IAR0 = SYSREG(3, 0, 12, 8, 0),
    ICC_EOIR0 = SYSREG(3, 0, 12, 8, 1),
    ICC_HPPIR0 = SYSREG(3, 0, 12, 8, 2),
    ICC_BPR0 = SYSREG(3, 0, 12, 8, 3),
    ICC_AP0R0 = SYSREG(3, 0, 12, 8, 4),
    ICC_AP1R0 = SYSREG(3, 0, 12, 9, 0),
    ICC_AP1R3 = SYSREG(3, 0, 12, 9, 3),
    ICC_DIR = SYSREG(3, 0, 12, 11, 1),
    ICC_RPR = SYSREG(3, 0, 12, 11, 3),
    ICC_SGI1R = SYSREG(3, 0, 12, 11, 5),
    ICC_ASGI1R = SYSREG(3, 0, 12, 11, 6),
    ICC_SGI0R = SYSREG(3, 0, 12, 11, 7),
    ICC_IAR1 = SYSREG(3, 0, 12, 12, 0),
    ICC_EOIR1 = SYSREG(3, 0, 12, 12, 1),
    ICC_HPPIR1 = SYSREG(3, 0, 12, 12, 2),
    ICC_BPR1 = SYSREG(3, 0, 12, 12, 3),
    ICC_CTLR = SYSREG(3, 0, 12, 12, 4),
    ICC_SRE = SYSREG(3, 0, 12, 12, 5),
    ICC_IGRPEN0 = SYSREG(3, 0, 12, 12, 6),
    ICC_IGRPEN1 = SYSREG(3, 0, 12, 12, 7),
};

/* The registers that hold something, and ICC_RPR_EL1. */
uint64_t read_icc(const struct vcpu *cpu, const struct sysreg *reg);
void write_icc(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
/* ICC_IAR, ICC_HPPIR, ICC_EOIR of either group, ICC_DIR, and those that send SGIs. */
uint64_t read_icc_iar(const struct vcpu *cpu, const struct sysreg *reg);
uint64_t read_icc_hppir(const struct vcpu *cpu, const struct sysreg *reg);
void write_icc_eoir(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
void write_icc_dir(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
void write_icc_sgi(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
/* UNDEFINED without a GIC, or without registers for so many priorities. */
enum sysreg_access check_gic(const struct vcpu *cpu);
enum sysreg_access check_priorities_1(const struct vcpu *cpu);
enum sysreg_access check_priorities_2_3(const struct vcpu *cpu);

#endif
