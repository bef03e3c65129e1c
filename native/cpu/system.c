/* The system instructions: hints, barriers, PSTATE, DC, IC, TLBI, AT, MRS and MSR
 * (DDI 0487 C4.1.93 and C5). */
#include "memory.h"
#include "simd.h"
#include "sysregs.h"

void run_dc_zva(struct vcpu *cpu, const struct insn *insn);
void run_dc_gva(struct vcpu *cpu, const struct insn *insn);

static void run_nop(struct vcpu *cpu, const struct insn *insn)
{
    (void)cpu;
    (void)insn;
}

/* WFE, WFI: the vCPU gives up its turn, and after WFI gets no other one before an interrupt is
 * pending, masked or not. WFE is a turn given up and no more: it may end at any time, and there is
 * no event register. `amount` is 1 for WFI. EL1 may have asked to see those of EL0. */
static void run_wait(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t allowed = insn->amount ? SCTLR_NTWI : SCTLR_NTWE;
    if (!cpu->el && !(cpu->sys.sctlr & allowed)) {
        raise_exception(cpu, EC_WFX, 1u << 24 | 0xeu << 20 | (insn->amount ? 0 : 1));
        return;
    }
    if (insn->amount && interrupt_lines(cpu))
        return;
    cpu->waiting = insn->amount ? WAITING_FOR_INTERRUPT : WAITING_FOR_EVENT;
    cpu->turn_over = cpu->slice_over = true;
}

static void run_yield(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->turn_over = cpu->slice_over = true;
}

static bool decode_hint(uint32_t word, struct insn *insn)
{
    switch (BITS(word, 11, 5)) {
    case 1:
        insn->run = run_yield;
        return true;
    case 2: case 3:
        insn->amount = BITS(word, 11, 5) == 3;
        insn->run = run_wait;
        return true;
    default:
        insn->run = run_nop; /* NOP, SEV, and hints of features not here */
        return true;
    }
}

static void run_clrex(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    drop_monitor(cpu);
}

static bool decode_barrier(uint32_t word, struct insn *insn)
{
    unsigned op2 = BITS(word, 7, 5);
    insn->run = op2 == 2 ? run_clrex : run_nop;
    if (op2 == 7)
        return !BITS(word, 11, 8); /* SB */
    return op2 == 2 || op2 == 4 || op2 == 5 || op2 == 6;
}

/* --- PSTATE --- */

static void run_cfinv(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    cpu->nzcv ^= 1u << 29;
}

static void run_xaflag(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    unsigned z = cpu->nzcv >> 30 & 1, c = cpu->nzcv >> 29 & 1;
    cpu->nzcv = (uint32_t)(!c && !z) << 31 | (z & c) << 30 | (c | z) << 29 |
                (uint32_t)(!c && z) << 28;
}

static void run_axflag(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    unsigned z = cpu->nzcv >> 30 & 1, c = cpu->nzcv >> 29 & 1, v = cpu->nzcv >> 28 & 1;
    cpu->nzcv = (z | v) << 30 | (c & !v) << 29;
}

enum pstate_field { FIELD_SPSEL, FIELD_PAN, FIELD_UAO, FIELD_SSBS, FIELD_DIT, FIELD_TCO };

static void set_field(struct vcpu *cpu, unsigned field, unsigned value)
{
    switch (field) {
    case FIELD_SPSEL:
        select_stack(cpu, cpu->el, value);
        break;
    case FIELD_PAN:
        cpu->pan = (uint8_t)value;
        select_tlb(cpu);
        break;
    case FIELD_UAO:
        cpu->uao = (uint8_t)value;
        break;
    case FIELD_SSBS:
        cpu->ssbs = (uint8_t)value;
        break;
    case FIELD_DIT:
        cpu->dit = (uint8_t)value;
        break;
    case FIELD_TCO:
        cpu->tco = (uint8_t)value;
        update_tag_checks(cpu);
        break;
    }
}

static void run_msr_field(struct vcpu *cpu, const struct insn *insn)
{
    if (!cpu->el && insn->shift < FIELD_SSBS)
        raise_undefined(cpu);
    else
        set_field(cpu, insn->shift, insn->imm & 1);
}

static uint32_t trap_iss(const struct insn *insn)
{
    uint32_t word = insn->raw;
    return BITS(word, 20, 19) << 20 | BITS(word, 7, 5) << 17 | BITS(word, 18, 16) << 14 |
           BITS(word, 15, 12) << 10 | BITS(word, 4, 0) << 5 | BITS(word, 11, 8) << 1 |
           BIT(word, 21);
}

/* False if EL0 may not do this; the exception was taken. */
static bool allowed_at_el0(struct vcpu *cpu, const struct insn *insn, uint64_t enable)
{
    if (cpu->el || (cpu->sys.sctlr & enable))
        return true;
    raise_exception(cpu, EC_SYSTEM_REGISTER, trap_iss(insn));
    return false;
}

static void run_msr_daif(struct vcpu *cpu, const struct insn *insn)
{
    if (!allowed_at_el0(cpu, insn, SCTLR_UMA))
        return;
    if (insn->shift)
        cpu->daif |= insn->imm;
    else
        cpu->daif &= ~insn->imm & 0xf;
    look_for_events(cpu);
}

static bool decode_msr_immediate(uint32_t word, struct insn *insn)
{
    insn->imm = BITS(word, 11, 8);
    insn->run = run_msr_field;
    switch (BITS(word, 18, 16) << 3 | BITS(word, 7, 5)) {
    case 000:
        insn->run = run_cfinv;
        return !insn->imm;
    case 001:
        insn->run = run_xaflag;
        return !insn->imm;
    case 002:
        insn->run = run_axflag;
        return !insn->imm;
    case 003:
        insn->shift = FIELD_UAO;
        return true;
    case 004:
        insn->shift = FIELD_PAN;
        return true;
    case 005:
        insn->shift = FIELD_SPSEL;
        return true;
    case 031:
        insn->shift = FIELD_SSBS;
        return true;
    case 032:
        insn->shift = FIELD_DIT;
        return true;
    case 034:
        insn->shift = FIELD_TCO;
        return true;
    case 036: case 037:
        insn->shift = BITS(word, 7, 5) == 6;
        insn->run = run_msr_daif;
        return true;
    default:
        return false;
    }
}

/* --- maintenance --- */

/* `amount` is 1 for those by address (VA, VAA, VAL, VAAL); those of one vCPU flush all vCPUs. */
static void run_tlbi(struct vcpu *cpu, const struct insn *insn)
{
    struct ta_machine *machine = cpu->machine;
    uint64_t address = (uint64_t)sign_extend(cpu->x[insn->rd] << PAGE_SHIFT, 56);
    if (!cpu->el)
        raise_undefined(cpu);
    else if (!insn->amount)
        flush_all_tlbs(machine);
    else
        for (uint32_t i = 0; i < machine->vcpu_count; i++)
            flush_tlb_page(&machine->vcpus[i], address);
}

static void run_el1_nop(struct vcpu *cpu, const struct insn *insn)
{
    (void)insn;
    if (!cpu->el)
        raise_undefined(cpu);
}

/* There is no cache, but the address must still translate. `amount`: EL1 can allow it to EL0;
 * the others are the invalidations, which need permission to write (D7.5.9). */
static void run_dc_address(struct vcpu *cpu, const struct insn *insn)
{
    struct access access;
    if (!insn->amount && !cpu->el)
        raise_undefined(cpu);
    else if (allowed_at_el0(cpu, insn, SCTLR_UCI))
        resolve(cpu, cpu->x[insn->rd], 1, 1,
                ACCESS_MAINTENANCE | (insn->amount ? ACCESS_READ : ACCESS_WRITE), &access);
}

static void run_dc_block(struct vcpu *cpu, const struct insn *insn)
{
    if (!allowed_at_el0(cpu, insn, SCTLR_DZE))
        return;
    if (insn->shift)
        run_dc_gva(cpu, insn);
    else
        run_dc_zva(cpu, insn);
}

#define PAR_F 1ull
#define PAR_RES1 (1ull << 11)

static void run_at(struct vcpu *cpu, const struct insn *insn)
{
    unsigned flags = insn->amount & 1 ? ACCESS_WRITE : ACCESS_READ, privilege = insn->amount < 2;
    if (!cpu->el) {
        raise_undefined(cpu);
        return;
    }
    uint64_t address = strip_top_byte(cpu, cpu->x[insn->rd]);
    struct translation result = translate(cpu, address, flags, privilege);
    /* An external abort on the walk is taken; all else is for PAR_EL1 to tell. */
    if (!result.ok && (result.fsc & ~3u) == FSC_EXTERNAL_ON_WALK) {
        raise_data_abort(cpu, cpu->x[insn->rd], result.fsc, ACCESS_MAINTENANCE);
        return;
    }
    cpu->sys.par = result.ok ? (uint64_t)result.attribute << 56 | (result.gpa & PAGE_MASK) |
                                   PAR_RES1 | 2ull << 7
                             : PAR_F | PAR_RES1 | (uint64_t)result.fsc << 1;
}

/* CRn = 7 with op1 = 0: EL1's own maintenance. */
static bool decode_el1_maintenance(unsigned crm, unsigned op2, struct insn *insn)
{
    bool set_way = op2 == 2 || op2 == 4 || op2 == 6;
    switch (crm) {
    case 1: case 5:
        insn->run = run_el1_nop; /* IC IALLUIS, IALLU */
        return op2 == 0;
    case 6:
        insn->run = set_way ? run_el1_nop : run_dc_address; /* DC IVAC, IGVAC, IGDVAC, ISW.. */
        return op2 >= 1 && op2 <= 6;
    case 8:
        insn->run = run_at;
        insn->amount = (uint8_t)op2;
        return op2 <= 3;
    case 10: case 14:
        insn->run = run_el1_nop; /* DC CSW, CGSW, CGDSW, CISW.. */
        return set_way;
    default:
        return false;
    }
}

/* CRn = 7 with op1 = 3: what EL1 can allow to EL0. */
static bool decode_el0_maintenance(unsigned crm, unsigned op2, struct insn *insn)
{
    insn->amount = 1;
    insn->run = run_dc_address;
    switch (crm) {
    case 4:
        insn->run = run_dc_block;
        insn->shift = op2 != 1;
        insn->amount = op2 == 4; /* GZVA zeros the data too */
        return op2 == 1 || op2 == 3 || op2 == 4;
    case 5:
        return op2 == 1; /* IC IVAU */
    case 10: case 12: case 13: case 14:
        return op2 == 1 || op2 == 3 || op2 == 5;
    case 11:
        return op2 == 1;
    default:
        return false;
    }
}

static bool decode_sys(uint32_t word, struct insn *insn)
{
    unsigned op1 = BITS(word, 18, 16), crn = BITS(word, 15, 12), crm = BITS(word, 11, 8);
    unsigned op2 = BITS(word, 7, 5);
    insn->rd = slot_source(BITS(word, 4, 0));
    if (BIT(word, 21))
        return false; /* no SYSL is defined here */
    if (crn == 8 && op1 == 0 && (crm == 3 || crm == 7)) {
        insn->run = run_tlbi;
        insn->amount = op2 & 1;
        return op2 != 4 && op2 != 6;
    }
    if (crn != 7)
        return false;
    if (op1 == 0)
        return decode_el1_maintenance(crm, op2, insn);
    return op1 == 3 && decode_el0_maintenance(crm, op2, insn);
}

/* --- MRS and MSR --- */

static const struct sysreg *sysreg_of(const struct insn *insn)
{
    return (const struct sysreg *)(uintptr_t)insn->imm;
}

/* False if the access is not allowed; the exception was taken. */
static bool may_access(struct vcpu *cpu, const struct insn *insn, unsigned needed_at_el0)
{
    const struct sysreg *reg = sysreg_of(insn);
    enum sysreg_access access = ACCESS_ALLOWED;
    if (!cpu->el && !(reg->flags & needed_at_el0))
        access = ACCESS_UNDEFINED;
    else if (reg->check)
        access = reg->check(cpu);
    if (access == ACCESS_UNDEFINED)
        raise_undefined(cpu);
    else if (access == ACCESS_TRAPPED)
        raise_exception(cpu, EC_SYSTEM_REGISTER, trap_iss(insn));
    else if (access == ACCESS_TRAPPED_FP)
        raise_fp_trap(cpu);
    return access == ACCESS_ALLOWED;
}

static void run_mrs(struct vcpu *cpu, const struct insn *insn)
{
    const struct sysreg *reg = sysreg_of(insn);
    if (may_access(cpu, insn, EL0_READ))
        cpu->x[insn->rd] = reg->read(cpu, reg);
}

/* A register that is a field and has no check of its own; imm is its offset in struct vcpu. */
static void run_mrs_field(struct vcpu *cpu, const struct insn *insn)
{
    if (likely(cpu->el || (insn->flags & EL0_READ)))
        memcpy(&cpu->x[insn->rd], (const char *)cpu + insn->imm, 8);
    else
        raise_undefined(cpu);
}

static void run_msr(struct vcpu *cpu, const struct insn *insn)
{
    const struct sysreg *reg = sysreg_of(insn);
    if (may_access(cpu, insn, EL0_WRITE))
        reg->write(cpu, reg, cpu->x[insn->rn]);
}

static bool decode_register_move(uint32_t word, struct insn *insn)
{
    uint32_t encoding = BITS(word, 20, 5) & 0xffff;
    const struct sysreg *reg = find_sysreg(encoding);
    bool is_read = BIT(word, 21);
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->rn = slot_source(BITS(word, 4, 0));
    if (!reg)
        return false; /* of a feature that this CPU does not claim */
    insn->imm = (uintptr_t)reg;
    insn->run = is_read ? run_mrs : run_msr;
    if (is_read && is_sysreg_field(reg) && !reg->check) {
        insn->imm = reg->offset;
        insn->flags = (uint8_t)reg->flags;
        insn->run = run_mrs_field;
    }
    return is_read ? reg->read != NULL : reg->write && !(reg->flags & READ_ONLY);
}

bool decode_system(uint32_t word, struct insn *insn)
{
    unsigned op0 = BITS(word, 20, 19), op1 = BITS(word, 18, 16), crn = BITS(word, 15, 12);
    bool is_plain_form = !BIT(word, 21) && BITS(word, 4, 0) == 31;
    if (BITS(word, 23, 22))
        return false;
    if (op0 >= 2)
        return decode_register_move(word, insn);
    if (op0 == 1)
        return decode_sys(word, insn);
    if (!is_plain_form)
        return false;
    if (crn == 4)
        return decode_msr_immediate(word, insn);
    if (op1 != 3)
        return false;
    return crn == 2 ? decode_hint(word, insn) : crn == 3 && decode_barrier(word, insn);
}
