/* SIMD instructions that move bits and compute none: copy, immediates, EXT, TBL, ZIP and their
 * kin (DDI 0487 C4.1.96). */
#include "simd.h"

/* --- copy: insn->shift is the source's lane, insn->ra the destination's ----------------- */

static void run_dup_element(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    uint64_t half = duplicate(get_lane(&cpu->v[insn->rn], insn->size, insn->shift), insn->size);
    write_vector(cpu, insn->rd, &(struct vector){.u64 = {half, half}}, insn->amount);
}

static void run_dup_general(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    uint64_t half = duplicate(cpu->x[insn->rn], insn->size);
    write_vector(cpu, insn->rd, &(struct vector){.u64 = {half, half}}, insn->amount);
}

static void run_umov(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        cpu->x[insn->rd] = get_lane(&cpu->v[insn->rn], insn->size, insn->shift);
}

static void run_smov(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    uint64_t lane = get_lane(&cpu->v[insn->rn], insn->size, insn->shift);
    uint64_t value = (uint64_t)sign_extend(lane, 8u << insn->size);
    cpu->x[insn->rd] = BIT(insn->raw, 30) ? value : (uint32_t)value;
}

static void run_ins_general(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        set_lane(&cpu->v[insn->rd], insn->size, insn->ra, cpu->x[insn->rn]);
}

static void run_ins_element(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        set_lane(&cpu->v[insn->rd], insn->size, insn->ra,
                 get_lane(&cpu->v[insn->rn], insn->size, insn->shift));
}

static bool decode_to_general(uint32_t word, struct insn *insn, bool is_signed)
{
    bool is_wide = BIT(word, 30);
    insn->rd = slot_target(insn->rd);
    insn->run = is_signed ? run_smov : run_umov;
    if (is_signed)
        return insn->size < 2u + is_wide; /* into a wider register */
    return is_wide == (insn->size == 3);
}

/* imm5 is the lane's number, a one, and as many zeros as `size` says. */
bool decode_simd_copy(uint32_t word, struct insn *insn)
{
    unsigned imm5 = BITS(word, 20, 16), imm4 = BITS(word, 14, 11);
    bool is_full = BIT(word, 30), is_scalar = BIT(word, 28);
    if (!(imm5 & 15))
        return false;
    insn->size = (uint8_t)__builtin_ctz(imm5);
    insn->shift = insn->ra = (uint8_t)(imm5 >> (insn->size + 1));
    insn->amount = is_scalar ? (uint8_t)(1u << insn->size) : vector_bytes(word);
    if (is_scalar || (!BIT(word, 29) && imm4 == 0)) {
        insn->run = run_dup_element;
        return is_scalar ? !BIT(word, 29) && imm4 == 0 : is_full || insn->size != 3;
    }
    if (BIT(word, 29)) {
        insn->shift = (uint8_t)(imm4 >> insn->size);
        insn->run = run_ins_element;
        return is_full;
    }
    switch (imm4) {
    case 1:
        insn->rn = slot_source(insn->rn);
        insn->run = run_dup_general;
        return is_full || insn->size != 3;
    case 3:
        insn->rn = slot_source(insn->rn);
        insn->run = run_ins_general;
        return is_full;
    case 5: case 7:
        return decode_to_general(word, insn, imm4 == 5);
    default:
        return false;
    }
}

/* --- modified immediate ----------------------------------------------------------------- */

static void run_move_immediate(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        write_vector(cpu, insn->rd, &(struct vector){.u64 = {insn->imm, insn->imm}},
                     insn->amount);
}

static void run_or_immediate(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector *old = &cpu->v[insn->rd];
    struct vector value = {.u64 = {old->u64[0] | insn->imm, old->u64[1] | insn->imm}};
    write_vector(cpu, insn->rd, &value, insn->amount);
}

static void run_clear_immediate(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector *old = &cpu->v[insn->rd];
    struct vector value = {.u64 = {old->u64[0] & ~insn->imm, old->u64[1] & ~insn->imm}};
    write_vector(cpu, insn->rd, &value, insn->amount);
}

uint64_t expand_float(unsigned imm8, unsigned bits, unsigned exponent_bits)
{
    unsigned fraction_bits = bits - exponent_bits - 1;
    uint64_t exponent = imm8 & 0x40 ? ((1ull << (exponent_bits - 3)) - 1) << 2
                                    : 1ull << (exponent_bits - 1);
    exponent |= imm8 >> 4 & 3;
    return (uint64_t)(imm8 >> 7) << (bits - 1) | exponent << fraction_bits |
           (uint64_t)(imm8 & 15) << (fraction_bits - 4);
}

/* Each bit becomes a byte of ones or zeros. */
static uint64_t expand_bits(unsigned imm8)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < 8; i++)
        value |= (BIT(imm8, i) ? 0xffull : 0) << (8 * i);
    return value;
}

/* AdvSIMDExpandImm() (shared/functions/vector). */
static uint64_t expand_immediate(unsigned operation, unsigned cmode, unsigned imm8)
{
    switch (cmode >> 1) {
    case 0: case 1: case 2: case 3:
        return duplicate((uint64_t)imm8 << (8 * (cmode >> 1)), 2);
    case 4: case 5:
        return duplicate((uint64_t)imm8 << (8 * (cmode >> 1 & 1)), 1);
    case 6:
        return duplicate(cmode & 1 ? imm8 << 16 | 0xffff : imm8 << 8 | 0xff, 2);
    default:
        if (!(cmode & 1))
            return operation ? expand_bits(imm8) : duplicate(imm8, 0);
        return operation ? expand_float(imm8, 64, 11) : duplicate(expand_float(imm8, 32, 8), 2);
    }
}

bool decode_simd_modified_immediate(uint32_t word, struct insn *insn)
{
    unsigned operation = BIT(word, 29), cmode = BITS(word, 15, 12);
    unsigned imm8 = BITS(word, 18, 16) << 5 | BITS(word, 9, 5);
    insn->amount = vector_bytes(word);
    insn->run = run_move_immediate;
    if (BIT(word, 11)) { /* FMOV of half precision */
        insn->imm = duplicate(expand_float(imm8, 16, 5), 1);
        return cmode == 15 && !operation;
    }
    insn->imm = expand_immediate(operation, cmode, imm8);
    if (cmode < 12 && (cmode & 1)) {
        insn->run = operation ? run_clear_immediate : run_or_immediate;
        return true;
    }
    if (operation && cmode < 14)
        insn->imm = ~insn->imm;
    return cmode != 15 || !operation || BIT(word, 30);
}

/* --- EXT, TBL, TBX ---------------------------------------------------------------------- */

/* Bytes of Vm:Vn from byte `shift` on. */
static void run_ext(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    uint8_t both[2 * sizeof(struct vector)];
    struct vector result = {0};
    memcpy(both, &cpu->v[insn->rn], insn->amount);
    memcpy(both + insn->amount, &cpu->v[insn->rm], insn->amount);
    memcpy(&result, both + insn->shift, insn->amount);
    write_vector(cpu, insn->rd, &result, insn->amount);
}

bool decode_simd_extract(uint32_t word, struct insn *insn)
{
    insn->amount = vector_bytes(word);
    insn->shift = (uint8_t)BITS(word, 14, 11);
    insn->run = run_ext;
    return !BITS(word, 23, 22) && insn->shift < insn->amount;
}

/* The table is `shift` bytes of the registers from rn on; behind v31 comes v0. An index beyond it
 * gives zero (TBL) or leaves the byte (TBX: ra is 1). */
static void run_table(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector result = {0}, indices = cpu->v[insn->rm];
    if (insn->ra)
        result = cpu->v[insn->rd];
    for (unsigned i = 0; i < insn->amount; i++) {
        unsigned index = indices.u8[i];
        if (index < insn->shift)
            result.u8[i] = cpu->v[(insn->rn + index / 16) % VECTORS].u8[index % 16];
    }
    write_vector(cpu, insn->rd, &result, insn->amount);
}

bool decode_simd_table(uint32_t word, struct insn *insn)
{
    insn->amount = vector_bytes(word);
    insn->shift = (uint8_t)(16 * (BITS(word, 14, 13) + 1));
    insn->ra = BIT(word, 12);
    insn->run = run_table;
    return !BITS(word, 23, 22);
}

/* --- permute: insn->shift is 1 for the second form, of the odd lanes or the upper halves --- */

/* Every second lane of Vm:Vn. */
static void run_unzip(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector n = cpu->v[insn->rn], m = cpu->v[insn->rm], result = {0};
    unsigned half = (unsigned)insn->amount >> (insn->size + 1);
    for (unsigned i = 0; i < half; i++) {
        set_lane(&result, insn->size, i, get_lane(&n, insn->size, 2 * i + insn->shift));
        set_lane(&result, insn->size, half + i, get_lane(&m, insn->size, 2 * i + insn->shift));
    }
    write_vector(cpu, insn->rd, &result, insn->amount);
}

/* Lanes of Vn and Vm by turns: the even or the odd ones (TRN), of one half (ZIP). */
static void interleave(struct vcpu *cpu, const struct insn *insn, unsigned first, unsigned step)
{
    struct vector n = cpu->v[insn->rn], m = cpu->v[insn->rm], result = {0};
    unsigned half = (unsigned)insn->amount >> (insn->size + 1);
    for (unsigned i = 0; i < half; i++) {
        unsigned source = first + i * step;
        set_lane(&result, insn->size, 2 * i, get_lane(&n, insn->size, source));
        set_lane(&result, insn->size, 2 * i + 1, get_lane(&m, insn->size, source));
    }
    write_vector(cpu, insn->rd, &result, insn->amount);
}

static void run_transpose(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        interleave(cpu, insn, insn->shift, 2);
}

static void run_zip(struct vcpu *cpu, const struct insn *insn)
{
    unsigned half = (unsigned)insn->amount >> (insn->size + 1);
    if (fp_enabled(cpu))
        interleave(cpu, insn, insn->shift ? half : 0, 1);
}

bool decode_simd_permute(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[4] = {NULL, run_unzip, run_transpose, run_zip};
    insn->amount = vector_bytes(word);
    insn->size = (uint8_t)BITS(word, 23, 22);
    insn->shift = BIT(word, 14);
    insn->run = handlers[BITS(word, 13, 12)];
    return insn->run && (insn->size != 3 || BIT(word, 30));
}
