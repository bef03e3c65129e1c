/* The counters' and the timers' registers, for the table of system registers (sysregs.c). */
#ifndef TA_TIMER_H
#define TA_TIMER_H

#include "sysregs.h"

uint64_t read_counter(const struct vcpu *cpu, const struct sysreg *reg);
uint64_t read_physical_counter(const struct vcpu *cpu, const struct sysreg *reg);
/* CTL, CVAL and TVAL of the timer that the register's encoding names. */
uint64_t read_timer_control(const struct vcpu *cpu, const struct sysreg *reg);
void write_timer_control(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
uint64_t read_timer_compare(const struct vcpu *cpu, const struct sysreg *reg);
void write_timer_compare(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);
uint64_t read_timer_value(const struct vcpu *cpu, const struct sysreg *reg);
void write_timer_value(struct vcpu *cpu, const struct sysreg *reg, uint64_t value);

#endif
