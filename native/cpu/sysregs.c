/* The system registers of this CPU: one table, sorted by encoding. */
#include "cpu.h"
#include "gic_interface.h"
#include "identity.h"
#include "memory.h"
#include "simd.h"
#include "sysregs.h"
#include "timer.h"

#define COUNTER_HZ 62500000ull
#define CNTKCTL_EL0PCTEN 1ull
#define CNTKCTL_EL0VCTEN 2ull
#define CNTKCTL_EL0VTEN (1ull << 8)
#define CNTKCTL_EL0PTEN (1ull << 9)
#define GCR_BITS 0x1ffffull
#define RGSR_BITS 0xffff0full
#define TFSR_BITS 3ull
#define FPCR_BITS 0x07c80000ull /* AHP, DN, FZ, RMode, FZ16; no exception is trapped */
#define FPSR_BITS 0x0800009full /* QC, and the cumulative exceptions */
#define DBGBVR_BITS ALL_BITS /* an address or a context id: the low bits may mean something */
#define DBGBCR_BITS 0x00ffe1e7ull
#define DBGWVR_BITS ALL_BITS
#define DBGWCR_BITS 0x1f1fffffull
#define MDSCR_BITS (MDSCR_SS | MDSCR_TDCC | MDSCR_KDE | MDSCR_MDE)
#define MDCCINT_BITS (3ull << 29)
#define CLAIM_BITS 0xffull
#define SCTLR_RES1 0x30500800ull /* LSMAOE, nTLSMD, EIS, TSCXT, EOS: features not here */

/* What is not in the mask of SCTLR_EL1 belongs to features that this CPU does not have. CP15BEN and
 * nAA do, too, and mean nothing here; they are kept because KVM's reset value has them, so the state
 * of a vCPU that was never started does. */
#define SCTLR_WITHOUT_MEANING (1ull << 5 | 1ull << 6)
#define SCTLR_BITS                                                                            \
    (SCTLR_M | SCTLR_A | 1ull << 2 | SCTLR_SA | SCTLR_SA0 | SCTLR_UMA | 1ull << 12 |          \
     SCTLR_DZE | SCTLR_UCT | SCTLR_NTWI | SCTLR_NTWE | SCTLR_WXN | SCTLR_SPAN | SCTLR_UCI |   \
     1ull << 37 | 3ull << SCTLR_TCF0_SHIFT | 3ull << SCTLR_TCF_SHIFT | SCTLR_ATA0 |           \
     SCTLR_ATA | SCTLR_DSSBS | SCTLR_RES1 | SCTLR_WITHOUT_MEANING)

/* --- how a register is read and written --- */

uint64_t read_field(const struct vcpu *cpu, const struct sysreg *reg)
{
    uint64_t value;
    memcpy(&value, (const char *)cpu + reg->offset, sizeof value);
    return value;
}

void write_field(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    value &= reg->bits;
    memcpy((char *)cpu + reg->offset, &value, sizeof value);
}

/* For what changes how memory is reached. */
static void write_regime(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    write_field(cpu, reg, value);
    flush_tlb(cpu);
    update_memory_mode(cpu);
}

/* TTBR0_EL1, TTBR1_EL1, whose encodings differ in op2: a table of one half of the addresses. */
static void write_table(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    uint64_t changed = value ^ read_field(cpu, reg);
    write_field(cpu, reg, value);
    if (changed & ~TTBR_ASID)
        flush_tlb_half(cpu, reg->encoding & 1);
}

static uint64_t read_constant(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)cpu;
    return reg->bits;
}

/* Reads as zero and ignores writes: what belongs to a feature that is not here. */
static void write_nothing(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)cpu;
    (void)reg;
    (void)value;
}

static uint64_t read_mpidr(const struct vcpu *cpu, const struct sysreg *reg)
{
    return reg->bits | vcpu_affinity(cpu->index);
}

static uint64_t read_dczid(const struct vcpu *cpu, const struct sysreg *reg)
{
    bool prohibited = !cpu->el && !(cpu->sys.sctlr & SCTLR_DZE);
    return reg->bits | (prohibited ? DCZID_DZP : 0);
}

static uint64_t read_isr(const struct vcpu *cpu, const struct sysreg *reg)
{
    (void)reg;
    return (uint64_t)interrupt_lines(cpu) << 6;
}

static uint64_t read_field32(const struct vcpu *cpu, const struct sysreg *reg)
{
    uint32_t value;
    memcpy(&value, (const char *)cpu + reg->offset, sizeof value);
    return value;
}

static void write_field32(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    uint32_t bits = (uint32_t)(value & reg->bits);
    memcpy((char *)cpu + reg->offset, &bits, sizeof bits);
}

static bool accepts_pfr0(const struct vcpu *cpu, uint64_t value)
{
    uint64_t gic = cpu->machine->gic ? ID_AA64PFR0_GIC : 0;
    return value == (ID_AA64PFR0 | gic) || value == (ID_AA64PFR0_BEFORE | gic);
}
static bool accepts_dfr0(const struct vcpu *cpu, uint64_t value)
{
    (void)cpu;
    return value == ID_AA64DFR0 || value == ID_AA64DFR0_BEFORE;
}
static bool accepts_mmfr0(const struct vcpu *cpu, uint64_t value)
{
    (void)cpu;
    return value == ID_AA64MMFR0 || value == ID_AA64MMFR0_BEFORE;
}
static bool accepts_isar0(const struct vcpu *cpu, uint64_t value)
{
    (void)cpu;
    return value == ID_AA64ISAR0 || value == ID_AA64ISAR0_BEFORE;
}

/* --- who may access it --- */

enum sysreg_access if_enabled(const struct vcpu *cpu, uint64_t control, uint64_t enable)
{
    return cpu->el || (control & enable) ? ACCESS_ALLOWED : ACCESS_TRAPPED;
}

static enum sysreg_access check_ctr(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.sctlr, SCTLR_UCT);
}

static enum sysreg_access check_fp(const struct vcpu *cpu)
{
    return fp_is_untrapped(cpu) ? ACCESS_ALLOWED : ACCESS_TRAPPED_FP;
}

static enum sysreg_access check_frequency(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.cntkctl, CNTKCTL_EL0PCTEN | CNTKCTL_EL0VCTEN);
}

static enum sysreg_access check_physical_count(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.cntkctl, CNTKCTL_EL0PCTEN);
}

static enum sysreg_access check_virtual_count(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.cntkctl, CNTKCTL_EL0VCTEN);
}

static enum sysreg_access check_physical_timer(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.cntkctl, CNTKCTL_EL0PTEN);
}

static enum sysreg_access check_virtual_timer(const struct vcpu *cpu)
{
    return if_enabled(cpu, cpu->sys.cntkctl, CNTKCTL_EL0VTEN);
}

/* --- the table --- */

#define FIELD(name) offsetof(struct vcpu, name)
#define ALL_BITS (~0ull)
#define EL0_BOTH (EL0_READ | EL0_WRITE)
#define OP(...) SYSREG(__VA_ARGS__)

#define VALUE(op, field, flags, bits) {op, FIELD(sys.field), flags, bits, read_field, write_field, NULL, NULL}
#define REGIME(op, field, bits) {op, FIELD(sys.field), STATE, bits, read_field, write_regime, NULL, NULL}
#define TABLE(op, field)                                                                      \
    {op, FIELD(sys.field), STATE, ALL_BITS, read_field, write_table, NULL, NULL}
#define FIXED(op, value) {op, 0, STATE | CONSTANT, value, read_constant, NULL, NULL, NULL}
#define IDENTITY(op, field, accepts)                                                          \
    {op, FIELD(sys.field), STATE | READ_ONLY, ALL_BITS, read_field, write_field, NULL, accepts}
#define ZERO(op) {op, 0, STATE, 0, read_constant, write_nothing, NULL, NULL}
#define FLAG(op, field, flags, bit, write) {op, FIELD(field), flags, bit, read_flag, write, NULL, NULL}
#define SPECIAL(op, flags, read, write, check) {op, 0, flags, 0, read, write, check, NULL}
#define NOTHING(op, flags, check) SPECIAL(op, flags, read_constant, write_nothing, check)
#define FP_CONTROL(op, field, bits) {op, FIELD(field), EL0_BOTH, bits, read_field32, write_field32, check_fp, NULL}
#define DEBUG(op, field, bits)                                                                \
    {op, FIELD(sys.field), STATE, bits, read_field, write_debug, NULL, NULL}
#define BREAKPOINT(n)                                                                         \
    DEBUG(OP(2, 0, 0, n, 4), dbgbvr[n], DBGBVR_BITS),                                         \
        DEBUG(OP(2, 0, 0, n, 5), dbgbcr[n], DBGBCR_BITS)
#define WATCHPOINT(n)                                                                         \
    DEBUG(OP(2, 0, 0, n, 6), dbgwvr[n], DBGWVR_BITS),                                         \
        DEBUG(OP(2, 0, 0, n, 7), dbgwcr[n], DBGWCR_BITS)
#define ICC(encoding, read, write) {encoding, 0, 0, 0, read, write, check_gic, NULL}
#define ICC_HELD(encoding) ICC(encoding, read_icc, write_icc)
#define ICC_PRIORITIES(encoding, check) {encoding, 0, 0, 0, read_icc, write_icc, check, NULL}
#define TIMER(op, part, check)                                                                \
    SPECIAL(op, EL0_BOTH, read_timer_##part, write_timer_##part, check)
#define CLAIM_CLEAR(op)                                                                       \
    {op, FIELD(sys.dbgclaim), 0, CLAIM_BITS, read_field, write_claim_clear, NULL, NULL}

/* ELR_EL1, SPSR_EL1, SP_EL0, FPCR and FPSR have no STATE: KVM has them among the core registers.
 * PSTATE is one of those too; the counter has an id of its own; ISR_EL1 is what the interrupt lines say. */
static const struct sysreg registers[] = {
    NOTHING(OP(2, 0, 0, 0, 2), 0, NULL), /* OSDTRRX_EL1 */
    BREAKPOINT(0),
    WATCHPOINT(0),
    BREAKPOINT(1),
    WATCHPOINT(1),
    VALUE(OP(2, 0, 0, 2, 0), mdccint, STATE, MDCCINT_BITS),
    DEBUG(OP(2, 0, 0, 2, 2), mdscr, MDSCR_BITS),
    BREAKPOINT(2),
    WATCHPOINT(2),
    NOTHING(OP(2, 0, 0, 3, 2), 0, NULL), /* OSDTRTX_EL1 */
    BREAKPOINT(3),
    WATCHPOINT(3),
    BREAKPOINT(4),
    BREAKPOINT(5),
    NOTHING(OP(2, 0, 0, 6, 2), 0, NULL),                               /* OSECCR_EL1 */
    SPECIAL(OP(2, 0, 1, 0, 0), 0, read_constant, NULL, NULL),          /* MDRAR_EL1 */
    SPECIAL(OP(2, 0, 1, 0, 4), 0, NULL, write_oslar, NULL),            /* OSLAR_EL1 */
    {OP(2, 0, 1, 1, 4), 0, STATE | READ_ONLY, OSLSR_LOCKED, read_oslsr, write_oslsr, NULL, NULL},
    NOTHING(OP(2, 0, 1, 3, 4), 0, NULL), /* OSDLR_EL1: no double lock */
    NOTHING(OP(2, 0, 1, 4, 4), 0, NULL), /* DBGPRCR_EL1 */
    {OP(2, 0, 7, 8, 6), 0, 0, CLAIM_BITS, read_claim_set, write_claim_set, NULL, NULL},
    CLAIM_CLEAR(OP(2, 0, 7, 9, 6)),
    SPECIAL(OP(2, 0, 7, 14, 6), 0, read_constant, NULL, NULL), /* DBGAUTHSTATUS_EL1: no signals */
    SPECIAL(OP(2, 3, 0, 1, 0), EL0_READ, read_constant, NULL, check_channel), /* MDCCSR_EL0 */
    NOTHING(OP(2, 3, 0, 4, 0), EL0_BOTH, check_channel),                      /* DBGDTR_EL0 */
    NOTHING(OP(2, 3, 0, 5, 0), EL0_BOTH, check_channel), /* DBGDTRRX_EL0, DBGDTRTX_EL0 */
    FIXED(OP(3, 0, 0, 0, 0), MIDR),
    {OP(3, 0, 0, 0, 5), 0, STATE, MPIDR_RES1, read_mpidr, NULL, NULL, NULL},
    FIXED(OP(3, 0, 0, 0, 6), 0), /* REVIDR_EL1 */
    IDENTITY(OP(3, 0, 0, 4, 0), id_aa64pfr0, accepts_pfr0),
    FIXED(OP(3, 0, 0, 4, 1), ID_AA64PFR1),
    IDENTITY(OP(3, 0, 0, 5, 0), id_aa64dfr0, accepts_dfr0),
    IDENTITY(OP(3, 0, 0, 6, 0), id_aa64isar0, accepts_isar0),
    FIXED(OP(3, 0, 0, 6, 1), ID_AA64ISAR1),
    IDENTITY(OP(3, 0, 0, 7, 0), id_aa64mmfr0, accepts_mmfr0),
    FIXED(OP(3, 0, 0, 7, 1), ID_AA64MMFR1),
    FIXED(OP(3, 0, 0, 7, 2), ID_AA64MMFR2),
    REGIME(OP(3, 0, 1, 0, 0), sctlr, SCTLR_BITS),
    ZERO(OP(3, 0, 1, 0, 1)), /* ACTLR_EL1 */
    VALUE(OP(3, 0, 1, 0, 2), cpacr, STATE, 3ull << CPACR_FPEN_SHIFT),
    VALUE(OP(3, 0, 1, 0, 5), rgsr, STATE, RGSR_BITS),
    VALUE(OP(3, 0, 1, 0, 6), gcr, STATE, GCR_BITS),
    TABLE(OP(3, 0, 2, 0, 0), ttbr0),
    TABLE(OP(3, 0, 2, 0, 1), ttbr1),
    REGIME(OP(3, 0, 2, 0, 2), tcr, ALL_BITS),
    VALUE(OP(3, 0, 4, 0, 0), spsr, 0, 0xffffffffull),
    VALUE(OP(3, 0, 4, 0, 1), elr, 0, ALL_BITS),
    SPECIAL(OP(3, 0, 4, 1, 0), 0, read_sp_el0, write_sp_el0, check_sp_el0),
    SPECIAL(OP(3, 0, 4, 2, 0), 0, read_spsel, write_spsel, NULL),
    SPECIAL(OP(3, 0, 4, 2, 2), 0, read_current_el, NULL, NULL),
    FLAG(OP(3, 0, 4, 2, 3), pan, 0, SPSR_PAN, write_pan),
    FLAG(OP(3, 0, 4, 2, 4), uao, 0, SPSR_UAO, write_flag),
    ICC_HELD(ICC_PMR),
    ZERO(OP(3, 0, 5, 1, 0)), /* AFSR0_EL1, AFSR1_EL1 */
    ZERO(OP(3, 0, 5, 1, 1)),
    VALUE(OP(3, 0, 5, 2, 0), esr, STATE, ALL_BITS),
    VALUE(OP(3, 0, 5, 6, 0), tfsr, STATE, TFSR_BITS),
    VALUE(OP(3, 0, 5, 6, 1), tfsre0, STATE, TFSR_BITS),
    VALUE(OP(3, 0, 6, 0, 0), far, STATE, ALL_BITS),
    VALUE(OP(3, 0, 7, 4, 0), par, STATE, ALL_BITS),
    REGIME(OP(3, 0, 10, 2, 0), mair, ALL_BITS),
    ZERO(OP(3, 0, 10, 3, 0)), /* AMAIR_EL1 */
    ZERO(OP(3, 0, 10, 4, 0)), /* LORSA_EL1 and its kin: LORID_EL1 is 0 */
    ZERO(OP(3, 0, 10, 4, 1)),
    ZERO(OP(3, 0, 10, 4, 2)),
    ZERO(OP(3, 0, 10, 4, 3)),
    FIXED(OP(3, 0, 10, 4, 7), 0), /* LORID_EL1: no LORegion */
    VALUE(OP(3, 0, 12, 0, 0), vbar, STATE, ~0x7ffull),
    SPECIAL(OP(3, 0, 12, 1, 0), 0, read_isr, NULL, NULL),
    ICC(ICC_IAR0, read_icc_iar, NULL),
    ICC(ICC_EOIR0, NULL, write_icc_eoir),
    ICC(ICC_HPPIR0, read_icc_hppir, NULL),
    ICC_HELD(ICC_BPR0),
    ICC_HELD(ICC_AP0R0),
    ICC_PRIORITIES(ICC_AP0R0 + 1, check_priorities_1),
    ICC_PRIORITIES(ICC_AP0R0 + 2, check_priorities_2_3),
    ICC_PRIORITIES(ICC_AP0R0 + 3, check_priorities_2_3),
    ICC_HELD(ICC_AP1R0),
    ICC_PRIORITIES(ICC_AP1R0 + 1, check_priorities_1),
    ICC_PRIORITIES(ICC_AP1R0 + 2, check_priorities_2_3),
    ICC_PRIORITIES(ICC_AP1R3, check_priorities_2_3),
    ICC(ICC_DIR, NULL, write_icc_dir),
    ICC(ICC_RPR, read_icc, NULL),
    ICC(ICC_SGI1R, NULL, write_icc_sgi),
    ICC(ICC_ASGI1R, NULL, write_icc_sgi),
    ICC(ICC_SGI0R, NULL, write_icc_sgi),
    ICC(ICC_IAR1, read_icc_iar, NULL),
    ICC(ICC_EOIR1, NULL, write_icc_eoir),
    ICC(ICC_HPPIR1, read_icc_hppir, NULL),
    ICC_HELD(ICC_BPR1),
    ICC_HELD(ICC_CTLR),
    ICC_HELD(ICC_SRE),
    ICC_HELD(ICC_IGRPEN0),
    ICC_HELD(ICC_IGRPEN1),
    VALUE(OP(3, 0, 13, 0, 1), contextidr, STATE, 0xffffffffull),
    VALUE(OP(3, 0, 13, 0, 4), tpidr_el1, STATE, ALL_BITS),
    VALUE(OP(3, 0, 14, 1, 0), cntkctl, STATE, 0x3ffull),
    FIXED(OP(3, 1, 0, 0, 0), 0), /* CCSIDR_EL1 */
    FIXED(OP(3, 1, 0, 0, 1), 0), /* CLIDR_EL1: no caches */
    FIXED(OP(3, 1, 0, 0, 4), GMID),
    FIXED(OP(3, 1, 0, 0, 7), 0), /* AIDR_EL1 */
    VALUE(OP(3, 2, 0, 0, 0), csselr, STATE, 0xfull),
    {OP(3, 3, 0, 0, 1), 0, EL0_READ | STATE | CONSTANT, CTR, read_constant, NULL, check_ctr,
     NULL},
    {OP(3, 3, 0, 0, 7), 0, EL0_READ | STATE | CONSTANT, DCZID, read_dczid, NULL, NULL,
     NULL},
    SPECIAL(OP(3, 3, 4, 2, 0), EL0_BOTH, read_nzcv, write_nzcv, NULL),
    SPECIAL(OP(3, 3, 4, 2, 1), EL0_BOTH, read_daif, write_daif, check_daif),
    FLAG(OP(3, 3, 4, 2, 5), dit, EL0_BOTH, SPSR_DIT, write_flag),
    FLAG(OP(3, 3, 4, 2, 6), ssbs, EL0_BOTH, SPSR_SSBS, write_flag),
    FLAG(OP(3, 3, 4, 2, 7), tco, EL0_BOTH, SPSR_TCO, write_tco),
    FP_CONTROL(OP(3, 3, 4, 4, 0), fpcr, FPCR_BITS),
    FP_CONTROL(OP(3, 3, 4, 4, 1), fpsr, FPSR_BITS),
    VALUE(OP(3, 3, 13, 0, 2), tpidr_el0, EL0_BOTH | STATE, ALL_BITS),
    VALUE(OP(3, 3, 13, 0, 3), tpidrro_el0, EL0_READ | STATE, ALL_BITS),
    {OP(3, 3, 14, 0, 0), 0, EL0_READ | STATE | CONSTANT, COUNTER_HZ, read_constant, NULL,
     check_frequency, NULL},
    SPECIAL(OP(3, 3, 14, 0, 1), EL0_READ, read_physical_counter, NULL, check_physical_count),
    SPECIAL(OP(3, 3, 14, 0, 2), EL0_READ, read_counter, NULL, check_virtual_count),
    TIMER(OP(3, 3, 14, 2, 0), value, check_physical_timer), /* CNTP_TVAL_EL0, _CTL, _CVAL */
    TIMER(OP(3, 3, 14, 2, 1), control, check_physical_timer),
    TIMER(OP(3, 3, 14, 2, 2), compare, check_physical_timer),
    TIMER(OP(3, 3, 14, 3, 0), value, check_virtual_timer), /* CNTV_TVAL_EL0, _CTL, _CVAL */
    TIMER(OP(3, 3, 14, 3, 1), control, check_virtual_timer),
    TIMER(OP(3, 3, 14, 3, 2), compare, check_virtual_timer),
};

enum { REGISTER_COUNT = sizeof registers / sizeof registers[0] };

/* The rest of the ID space reads as zero: "feature not here" (D23.1.3). */
static const struct sysreg absent_feature = {.flags = CONSTANT, .read = read_constant};

static const struct sysreg *find_listed(uint32_t encoding)
{
    uint32_t low = 0, high = REGISTER_COUNT;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (registers[middle].encoding == encoding)
            return &registers[middle];
        if (registers[middle].encoding < encoding)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const struct sysreg *find_sysreg(uint32_t encoding)
{
    const struct sysreg *reg = find_listed(encoding);
    bool is_id = encoding >= OP(3, 0, 0, 1, 0) && encoding <= OP(3, 0, 0, 7, 7);
    return reg || !is_id ? reg : &absent_feature;
}

bool is_sysreg_field(const struct sysreg *reg)
{
    return reg->read == read_field;
}

/* --- as part of a vCPU's state --- */

uint64_t read_sysreg_state(const struct vcpu *cpu, const struct sysreg *reg)
{
    return reg->flags & CONSTANT ? reg->bits : reg->read(cpu, reg);
}

bool write_sysreg_state(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    if ((reg->flags & CONSTANT) || !reg->write)
        return value == read_sysreg_state(cpu, reg);
    if (((value ^ read_sysreg_state(cpu, reg)) & ~reg->bits) ||
        (reg->accepts && !reg->accepts(cpu, value)))
        return false;
    reg->write(cpu, reg, value);
    return true;
}

void each_sysreg_state(void (*put)(void *context, uint32_t encoding), void *context)
{
    for (unsigned i = 0; i < REGISTER_COUNT; i++)
        if (registers[i].flags & STATE)
            put(context, registers[i].encoding);
}

void reset_vcpu(struct vcpu *cpu)
{
    cpu->el = 1;
    cpu->sp_select = 1;
    cpu->daif = 0xf;
    cpu->sys.sctlr = SCTLR_RES1 | SCTLR_SPAN;
    cpu->sys.id_aa64pfr0 = ID_AA64PFR0;
    cpu->sys.id_aa64dfr0 = ID_AA64DFR0;
    cpu->sys.id_aa64isar0 = ID_AA64ISAR0;
    cpu->sys.id_aa64mmfr0 = ID_AA64MMFR0;
    flush_tlb(cpu);
    update_memory_mode(cpu);
}
