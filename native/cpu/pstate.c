/* PSTATE: as SPSR_EL1 shows it, and the special-purpose registers that are parts of it (C5.2). */
#include "memory.h"
#include "sysregs.h"

uint64_t pstate_get(const struct vcpu *cpu)
{
    uint64_t mode = cpu->el ? (cpu->sp_select ? MODE_EL1H : MODE_EL1T) : MODE_EL0T;
    return cpu->nzcv | (cpu->tco ? SPSR_TCO : 0) | (cpu->dit ? SPSR_DIT : 0) |
           (cpu->uao ? SPSR_UAO : 0) | (cpu->pan ? SPSR_PAN : 0) | (cpu->il ? SPSR_IL : 0) |
           (cpu->ss ? SPSR_SS : 0) |
           (cpu->ssbs ? SPSR_SSBS : 0) | (uint64_t)cpu->daif << 6 | mode;
}

void select_stack(struct vcpu *cpu, unsigned el, unsigned sp_select)
{
    cpu->sp_el[cpu->sp_select] = cpu->x[SLOT_SP];
    cpu->el = (uint8_t)el;
    cpu->sp_select = (uint8_t)sp_select;
    cpu->x[SLOT_SP] = cpu->sp_el[sp_select];
}

static void set_flags(struct vcpu *cpu, uint64_t spsr)
{
    cpu->nzcv = (uint32_t)spsr & NZCV_MASK;
    cpu->tco = (spsr & SPSR_TCO) != 0;
    cpu->dit = (spsr & SPSR_DIT) != 0;
    cpu->uao = (spsr & SPSR_UAO) != 0;
    cpu->ssbs = (spsr & SPSR_SSBS) != 0;
    cpu->daif = (spsr & SPSR_DAIF) >> 6;
    cpu->pan = (spsr & SPSR_PAN) != 0;
}

static bool is_mode(uint64_t mode)
{
    return mode == MODE_EL0T || mode == MODE_EL1T || mode == MODE_EL1H;
}

bool pstate_take(struct vcpu *cpu, uint64_t spsr)
{
    uint64_t mode = spsr & SPSR_MODE;
    set_flags(cpu, spsr);
    cpu->il = (spsr & SPSR_IL) != 0;
    if (!is_mode(mode))
        return false;
    select_stack(cpu, mode != MODE_EL0T, mode == MODE_EL1H);
    return true;
}

void pstate_set(struct vcpu *cpu, uint64_t spsr)
{
    pstate_take(cpu, spsr);
    cpu->ss = (spsr & SPSR_SS) != 0;
    cpu->step_iss = 0;
    update_memory_mode(cpu);
}

/* --- the registers --- */

/* The stack pointer of EL0 while it is not the current one; see check_sp_el0(). */
uint64_t read_sp_el0(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return cpu->sp_el[0];
}

void write_sp_el0(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    cpu->sp_el[0] = value;
}

uint64_t read_current_el(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return (uint64_t)cpu->el << 2;
}

uint64_t read_spsel(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return cpu->sp_select;
}

void write_spsel(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    select_stack(cpu, cpu->el, value & 1);
}

uint64_t read_nzcv(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return cpu->nzcv;
}

void write_nzcv(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    cpu->nzcv = (uint32_t)value & NZCV_MASK;
}

uint64_t read_daif(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return (uint64_t)cpu->daif << 6;
}

void write_daif(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    cpu->daif = value >> 6 & 0xf;
    look_for_events(cpu);
}

/* UNDEFINED while it is the current stack pointer (C5.2.18). */
enum sysreg_access check_sp_el0(const struct vcpu *cpu)
{
    return cpu->el && cpu->sp_select ? ACCESS_ALLOWED : ACCESS_UNDEFINED;
}

/* A PSTATE flag of one bit: `offset` is its byte in struct vcpu, `bits` its place in the register. */
uint64_t read_flag(const struct vcpu *cpu, const struct sysreg *reg)
{
    return ((const uint8_t *)cpu)[reg->offset] ? reg->bits : 0;
}

void write_flag(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    ((uint8_t *)cpu)[reg->offset] = (value & reg->bits) != 0;
}

void write_pan(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    write_flag(cpu, reg, value);
    select_tlb(cpu);
}

void write_tco(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    write_flag(cpu, reg, value);
    update_tag_checks(cpu);
}

enum sysreg_access check_daif(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.sctlr, SCTLR_UMA);
}
