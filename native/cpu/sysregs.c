/* System registers as MRS and MSR reach them; state.c saves them by id. */
#include "cpu.h"
#include "sysregs.h"

/* This CPU: Armv8.5-A with FEAT_MTE3, LSE, LRCPC2, CRC32, FlagM2, PAN, UAO, DIT, SSBS2, SB,
 * LOR; no FP, no SIMD, no PAuth, no EL2 or EL3. Implementer 0 is for software. */
#define MIDR 0x000f7a60ull
#define ID_AA64PFR0 0x0001000000ff0011ull
#define ID_AA64PFR1 0x0000000000000320ull
#define ID_AA64DFR0 0x0000000000000006ull
#define ID_AA64ISAR0 0x0020000000210000ull
#define ID_AA64ISAR1 0x0000001000200002ull
#define ID_AA64MMFR0 0x000000000f000025ull
#define ID_AA64MMFR1 0x0000000000111000ull
#define ID_AA64MMFR2 0x0000000000000010ull
#define CTR 0x00000004b444c004ull
#define DCZID 7ull
#define DCZID_DZP (1ull << 4)
#define GMID 6ull
#define MPIDR_RES1 0x80000000ull
#define COUNTER_HZ 62500000ull
#define CNTKCTL_EL0PCTEN 1ull
#define CNTKCTL_EL0VCTEN 2ull
#define GCR_BITS 0x1ffffull
#define RGSR_BITS 0xffff0full
#define TFSR_BITS 3ull
#define SCTLR_RES1 0x30500800ull /* LSMAOE, nTLSMD, EIS, TSCXT, EOS: features not here */

#define FIELD(name) offsetof(struct vcpu, sys.name)
#define ALL_BITS (~0ull)
/* What is not in the mask of SCTLR_EL1 belongs to features that this CPU does not have. */
#define SCTLR_BITS                                                                            \
    (SCTLR_M | SCTLR_A | 1ull << 2 | SCTLR_SA | SCTLR_SA0 | SCTLR_UMA | 1ull << 12 |          \
     SCTLR_DZE | SCTLR_UCT | SCTLR_NTWI | SCTLR_NTWE | SCTLR_WXN | SCTLR_SPAN | SCTLR_UCI |   \
     1ull << 37 | 3ull << SCTLR_TCF0_SHIFT | 3ull << SCTLR_TCF_SHIFT | SCTLR_ATA0 |           \
     SCTLR_ATA | SCTLR_DSSBS | SCTLR_RES1)

static const struct sysreg registers[] = {
    {SYSREG(3, 0, 1, 0, 0), FIELD(sctlr), REGIME, SCTLR_BITS},
    {SYSREG(3, 0, 1, 0, 1), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 1, 0, 2), FIELD(cpacr), 0, 3ull << CPACR_FPEN_SHIFT},
    {SYSREG(3, 0, 1, 0, 5), FIELD(rgsr), 0, RGSR_BITS},
    {SYSREG(3, 0, 1, 0, 6), FIELD(gcr), 0, GCR_BITS},
    {SYSREG(3, 0, 2, 0, 0), FIELD(ttbr0), REGIME, ALL_BITS},
    {SYSREG(3, 0, 2, 0, 1), FIELD(ttbr1), REGIME, ALL_BITS},
    {SYSREG(3, 0, 2, 0, 2), FIELD(tcr), REGIME, ALL_BITS},
    {SYSREG(3, 0, 4, 0, 0), FIELD(spsr), 0, 0xffffffffull},
    {SYSREG(3, 0, 4, 0, 1), FIELD(elr), 0, ALL_BITS},
    {SYSREG(3, 0, 5, 1, 0), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 5, 1, 1), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 5, 2, 0), FIELD(esr), 0, ALL_BITS},
    {SYSREG(3, 0, 5, 6, 0), FIELD(tfsr), 0, TFSR_BITS},
    {SYSREG(3, 0, 5, 6, 1), FIELD(tfsre0), 0, TFSR_BITS},
    {SYSREG(3, 0, 6, 0, 0), FIELD(far), 0, ALL_BITS},
    {SYSREG(3, 0, 7, 4, 0), FIELD(par), 0, ALL_BITS},
    {SYSREG(3, 0, 10, 2, 0), FIELD(mair), REGIME, ALL_BITS},
    {SYSREG(3, 0, 10, 3, 0), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 10, 4, 0), FIELD(zero), 0, 0}, /* LORSA_EL1 and its kin: LORID_EL1 is 0 */
    {SYSREG(3, 0, 10, 4, 1), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 10, 4, 2), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 10, 4, 3), FIELD(zero), 0, 0},
    {SYSREG(3, 0, 12, 0, 0), FIELD(vbar), 0, ~0x7ffull},
    {SYSREG(3, 0, 13, 0, 1), FIELD(contextidr), 0, 0xffffffffull},
    {SYSREG(3, 0, 13, 0, 4), FIELD(tpidr_el1), 0, ALL_BITS},
    {SYSREG(3, 0, 14, 1, 0), FIELD(cntkctl), 0, 0x3ffull},
    {SYSREG(3, 2, 0, 0, 0), FIELD(csselr), 0, 0xfull},
    {SYSREG(3, 3, 13, 0, 2), FIELD(tpidr_el0), EL0_READ | EL0_WRITE, ALL_BITS},
    {SYSREG(3, 3, 13, 0, 3), FIELD(tpidrro_el0), EL0_READ, ALL_BITS},
    {SYSREG(2, 0, 0, 2, 2), FIELD(mdscr), 0, 1ull << 12},
};

enum { REGISTER_COUNT = sizeof registers / sizeof registers[0] };

static const struct {
    uint32_t encoding;
    uint64_t value;
} constants[] = {
    {SYSREG(3, 0, 0, 0, 0), MIDR},
    {SYSREG(3, 0, 0, 0, 6), 0}, /* REVIDR_EL1 */
    {SYSREG(3, 0, 0, 4, 0), ID_AA64PFR0},
    {SYSREG(3, 0, 0, 4, 1), ID_AA64PFR1},
    {SYSREG(3, 0, 0, 5, 0), ID_AA64DFR0},
    {SYSREG(3, 0, 0, 6, 0), ID_AA64ISAR0},
    {SYSREG(3, 0, 0, 6, 1), ID_AA64ISAR1},
    {SYSREG(3, 0, 0, 7, 0), ID_AA64MMFR0},
    {SYSREG(3, 0, 0, 7, 1), ID_AA64MMFR1},
    {SYSREG(3, 0, 0, 7, 2), ID_AA64MMFR2},
    {SYSREG(3, 1, 0, 0, 0), 0},  /* CCSIDR_EL1 */
    {SYSREG(3, 1, 0, 0, 1), 0},  /* CLIDR_EL1: no caches */
    {SYSREG(3, 1, 0, 0, 4), GMID},
    {SYSREG(3, 1, 0, 0, 7), 0}, /* AIDR_EL1 */
    {SYSREG(3, 3, 0, 0, 1), CTR},
    {SYSREG(3, 3, 0, 0, 7), DCZID},
    {SYSREG(3, 3, 14, 0, 0), COUNTER_HZ},
    {SYSREG(3, 0, 10, 4, 7), 0}, /* LORID_EL1: no LORegion */
};

enum { CONSTANT_COUNT = sizeof constants / sizeof constants[0] };

#define SYS_MPIDR SYSREG(3, 0, 0, 0, 5)
#define SYS_SP_EL0 SYSREG(3, 0, 4, 1, 0)
#define SYS_SPSEL SYSREG(3, 0, 4, 2, 0)
#define SYS_CURRENTEL SYSREG(3, 0, 4, 2, 2)
#define SYS_PAN SYSREG(3, 0, 4, 2, 3)
#define SYS_UAO SYSREG(3, 0, 4, 2, 4)
#define SYS_NZCV SYSREG(3, 3, 4, 2, 0)
#define SYS_DAIF SYSREG(3, 3, 4, 2, 1)
#define SYS_DIT SYSREG(3, 3, 4, 2, 5)
#define SYS_SSBS SYSREG(3, 3, 4, 2, 6)
#define SYS_TCO SYSREG(3, 3, 4, 2, 7)
#define SYS_CTR SYSREG(3, 3, 0, 0, 1)
#define SYS_DCZID SYSREG(3, 3, 0, 0, 7)
#define SYS_CNTFRQ SYSREG(3, 3, 14, 0, 0)
#define SYS_CNTPCT SYSREG(3, 3, 14, 0, 1)
#define SYS_CNTVCT SYSREG(3, 3, 14, 0, 2)
#define SYS_ISR SYSREG(3, 0, 12, 1, 0)
#define SYS_OSLAR SYSREG(2, 0, 1, 0, 4)
#define SYS_OSLSR SYSREG(2, 0, 1, 1, 4)
#define SYS_OSDLR SYSREG(2, 0, 1, 3, 4)

uint64_t *sysreg_field(struct vcpu *cpu, const struct sysreg *reg)
{
    return (uint64_t *)((char *)cpu + reg->offset);
}

const struct sysreg *find_sysreg(uint32_t encoding)
{
    for (unsigned i = 0; i < REGISTER_COUNT; i++)
        if (registers[i].encoding == encoding)
            return &registers[i];
    return NULL;
}

bool find_sysreg_constant(const struct vcpu *cpu, uint32_t encoding, uint64_t *value)
{
    if (encoding == SYS_MPIDR) {
        *value = MPIDR_RES1 | cpu->index;
        return true;
    }
    for (unsigned i = 0; i < CONSTANT_COUNT; i++)
        if (constants[i].encoding == encoding) {
            *value = constants[i].value;
            return true;
        }
    /* The rest of the ID space reads as zero: "feature not here" (D23.1.3). */
    *value = 0;
    return encoding >= SYSREG(3, 0, 0, 1, 0) && encoding <= SYSREG(3, 0, 0, 7, 7);
}

/* What is left is of features that this CPU does not claim, and so UNDEFINED; only debug,
 * the timers' comparators and FP are claimed by convention and not done. */
static enum sysreg_outcome judge_unknown(const struct vcpu *cpu, uint32_t encoding)
{
    unsigned op0 = encoding >> 14 & 3, op1 = encoding >> 11 & 7, crn = encoding >> 7 & 15;
    unsigned crm = encoding >> 3 & 15, op2 = encoding & 7;
    bool debug = op0 == 2 && op1 == 0 && crn <= 1;
    bool timer = op0 == 3 && op1 == 3 && crn == 14 && (crm == 2 || crm == 3) && op2 <= 2;
    bool fp = op0 == 3 && op1 == 3 && crn == 4 && crm == 4 && op2 <= 1;
    if (!cpu->el && !timer && !fp)
        return SYSREG_UNDEFINED;
    return debug || timer || fp ? SYSREG_UNSUPPORTED : SYSREG_UNDEFINED;
}

/* Those that EL0 can reach only if EL1 lets it. */
static bool is_trapped(const struct vcpu *cpu, uint32_t encoding)
{
    uint64_t sctlr = cpu->sys.sctlr, cntkctl = cpu->sys.cntkctl;
    switch (encoding) {
    case SYS_CTR:
        return !(sctlr & SCTLR_UCT);
    case SYS_DAIF:
        return !(sctlr & SCTLR_UMA);
    case SYS_CNTFRQ:
        return !(cntkctl & (CNTKCTL_EL0PCTEN | CNTKCTL_EL0VCTEN));
    case SYS_CNTPCT:
        return !(cntkctl & CNTKCTL_EL0PCTEN);
    case SYS_CNTVCT:
        return !(cntkctl & CNTKCTL_EL0VCTEN);
    default:
        return false;
    }
}

static bool read_pstate(const struct vcpu *cpu, uint32_t encoding, uint64_t *value)
{
    switch (encoding) {
    case SYS_SPSEL:
        *value = cpu->sp_select;
        return true;
    case SYS_CURRENTEL:
        *value = (uint64_t)cpu->el << 2;
        return true;
    case SYS_PAN:
        *value = cpu->pan ? SPSR_PAN : 0;
        return true;
    case SYS_UAO:
        *value = cpu->uao ? SPSR_UAO : 0;
        return true;
    case SYS_NZCV:
        *value = cpu->nzcv;
        return true;
    case SYS_DAIF:
        *value = (uint64_t)cpu->daif << 6;
        return true;
    case SYS_DIT:
        *value = cpu->dit ? SPSR_DIT : 0;
        return true;
    case SYS_SSBS:
        *value = cpu->ssbs ? SPSR_SSBS : 0;
        return true;
    case SYS_TCO:
        *value = cpu->tco ? SPSR_TCO : 0;
        return true;
    default:
        return false;
    }
}

/* The registers of an op1 other than 3 are EL1's alone. */
static bool is_privileged(uint32_t encoding)
{
    return (encoding >> 11 & 7) != 3;
}

enum sysreg_outcome read_sysreg(struct vcpu *cpu, uint32_t encoding, uint64_t *value)
{
    const struct sysreg *reg = find_sysreg(encoding);
    if (!cpu->el && is_privileged(encoding))
        return SYSREG_UNDEFINED;
    if (!cpu->el && is_trapped(cpu, encoding))
        return SYSREG_TRAPPED;
    if (reg) {
        *value = *sysreg_field(cpu, reg);
        return SYSREG_OK;
    }
    if (read_pstate(cpu, encoding, value) || find_sysreg_constant(cpu, encoding, value)) {
        if (encoding == SYS_DCZID && !cpu->el && !(cpu->sys.sctlr & SCTLR_DZE))
            *value |= DCZID_DZP;
        return SYSREG_OK;
    }
    switch (encoding) {
    case SYS_SP_EL0: /* UNDEFINED while it is the current stack pointer */
        *value = cpu->sp_el[0];
        return cpu->sp_select ? SYSREG_OK : SYSREG_UNDEFINED;
    case SYS_CNTPCT: case SYS_CNTVCT:
        *value = counter(cpu);
        return SYSREG_OK;
    case SYS_ISR:
        *value = (uint64_t)interrupt_lines(cpu) << 6;
        return SYSREG_OK;
    case SYS_OSLSR: case SYS_OSDLR:
        *value = 0;
        return SYSREG_OK;
    default:
        return judge_unknown(cpu, encoding);
    }
}

void after_sysreg_write(struct vcpu *cpu, const struct sysreg *reg)
{
    if (reg->flags & REGIME) {
        flush_tlb(cpu);
        update_memory_mode(cpu);
    }
}

static bool write_pstate(struct vcpu *cpu, uint32_t encoding, uint64_t value)
{
    switch (encoding) {
    case SYS_SPSEL:
        select_stack(cpu, cpu->el, value & 1);
        return true;
    case SYS_PAN:
        cpu->pan = (value & SPSR_PAN) != 0;
        flush_tlb(cpu);
        return true;
    case SYS_UAO:
        cpu->uao = (value & SPSR_UAO) != 0;
        return true;
    case SYS_NZCV:
        cpu->nzcv = (uint32_t)value & NZCV_MASK;
        return true;
    case SYS_DAIF:
        cpu->daif = value >> 6 & 0xf;
        look_for_interrupts(cpu);
        return true;
    case SYS_DIT:
        cpu->dit = (value & SPSR_DIT) != 0;
        return true;
    case SYS_SSBS:
        cpu->ssbs = (value & SPSR_SSBS) != 0;
        return true;
    case SYS_TCO:
        cpu->tco = (value & SPSR_TCO) != 0;
        update_tag_checks(cpu);
        return true;
    default:
        return false;
    }
}

enum sysreg_outcome write_sysreg(struct vcpu *cpu, uint32_t encoding, uint64_t value)
{
    const struct sysreg *reg = find_sysreg(encoding);
    uint64_t unused;
    if (!cpu->el && (is_privileged(encoding) || (reg && !(reg->flags & EL0_WRITE))))
        return SYSREG_UNDEFINED;
    if (!cpu->el && is_trapped(cpu, encoding))
        return SYSREG_TRAPPED;
    if (reg) {
        *sysreg_field(cpu, reg) = value & reg->mask;
        after_sysreg_write(cpu, reg);
        return SYSREG_OK;
    }
    if (write_pstate(cpu, encoding, value))
        return SYSREG_OK;
    switch (encoding) {
    case SYS_SP_EL0:
        if (!cpu->sp_select)
            return SYSREG_UNDEFINED;
        cpu->sp_el[0] = value;
        return SYSREG_OK;
    case SYS_OSLAR: case SYS_OSDLR:
        return SYSREG_OK;
    default:
        if (encoding == SYS_CURRENTEL || encoding == SYS_CNTPCT || encoding == SYS_CNTVCT ||
            encoding == SYS_OSLSR || encoding == SYS_ISR || find_sysreg_constant(cpu, encoding, &unused))
            return SYSREG_UNDEFINED; /* read-only */
        return judge_unknown(cpu, encoding);
    }
}

/* ELR_EL1 and SPSR_EL1 are core registers to KVM, so that the table's entries are not ids. */
bool is_sysreg_state(const struct sysreg *reg)
{
    return reg->offset != FIELD(elr) && reg->offset != FIELD(spsr);
}

/* Calls `put` with the encoding of each system register that is part of a vCPU's state. */
void each_sysreg_state(void (*put)(void *context, uint32_t encoding), void *context)
{
    for (unsigned i = 0; i < REGISTER_COUNT; i++)
        if (is_sysreg_state(&registers[i]))
            put(context, registers[i].encoding);
    put(context, SYS_MPIDR);
    for (unsigned i = 0; i < CONSTANT_COUNT; i++)
        put(context, constants[i].encoding);
}

void reset_vcpu(struct vcpu *cpu)
{
    cpu->el = 1;
    cpu->sp_select = 1;
    cpu->daif = 0xf;
    cpu->sys.sctlr = SCTLR_RES1 | SCTLR_SPAN;
    flush_tlb(cpu);
    update_memory_mode(cpu);
}
