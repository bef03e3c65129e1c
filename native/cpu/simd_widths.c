/* SIMD integer operations from neighbouring lanes, and between lanes of different widths; `size` is
 * that of the narrower ones. */
#include "simd_lanes.h"

/* --- neighbours: a and b are lanes 2i and 2i + 1 ---------------------------------------- */

ALWAYS_INLINE void pairwise(struct vcpu *cpu, const struct insn *insn, unsigned size,
                            bool is_signed, lane_operation *operation)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector n = cpu->v[insn->rn], m = cpu->v[insn->rm];
    struct vector result = {0};
    unsigned half = (unsigned)insn->amount >> (size + 1);
    for (unsigned i = 0; i < 2 * half; i++) {
        const struct vector *source = i < half ? &n : &m;
        unsigned from = 2 * (i < half ? i : i - half);
        set_lane(&result, size, i,
                 operation(cpu, extended_lane(source, size, from, is_signed),
                           extended_lane(source, size, from + 1, is_signed), 0, 8u << size));
    }
    write_vector(cpu, insn->rd, &result, insn->amount);
}

OPERATION(simd_addp, pairwise, UNSIGNED, a + b)
OPERATION(simd_smaxp, pairwise, SIGNED, (int64_t)a > (int64_t)b ? a : b)
OPERATION(simd_sminp, pairwise, SIGNED, (int64_t)a < (int64_t)b ? a : b)
OPERATION(simd_umaxp, pairwise, UNSIGNED, a > b ? a : b)
OPERATION(simd_uminp, pairwise, UNSIGNED, a < b ? a : b)

/* Into a lane of twice the width; c is the one that was there. */
ALWAYS_INLINE void pairwise_long(struct vcpu *cpu, const struct insn *insn, unsigned size,
                                 bool is_signed, lane_operation *operation)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector n = cpu->v[insn->rn], d = cpu->v[insn->rd];
    struct vector result = {0};
    for (unsigned i = 0; i < 8u >> size; i++)
        set_lane(&result, size + 1, i,
                 operation(cpu, extended_lane(&n, size, 2 * i, is_signed),
                           extended_lane(&n, size, 2 * i + 1, is_signed),
                           get_lane(&d, size + 1, i), 16u << size));
    write_vector(cpu, insn->rd, &result, insn->amount);
}

OPERATION(simd_saddlp, pairwise_long, SIGNED, a + b)
OPERATION(simd_uaddlp, pairwise_long, UNSIGNED, a + b)
OPERATION(simd_sadalp, pairwise_long, SIGNED, c + a + b)
OPERATION(simd_uadalp, pairwise_long, UNSIGNED, c + a + b)

/* One result from all lanes, `shift` of them. */
ALWAYS_INLINE void across(struct vcpu *cpu, const struct insn *insn, unsigned size, bool is_signed,
                          lane_operation *operation)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector n = cpu->v[insn->rn];
    uint64_t value = extended_lane(&n, size, 0, is_signed);
    for (unsigned i = 1; i < insn->shift; i++)
        value = operation(cpu, value, extended_lane(&n, size, i, is_signed), 0, 64);
    write_vector(cpu, insn->rd, &(struct vector){.u64 = {value}}, insn->amount);
}

OPERATION(simd_addv, across, UNSIGNED, a + b)
OPERATION(simd_smaxv, across, SIGNED, (int64_t)a > (int64_t)b ? a : b)
OPERATION(simd_sminv, across, SIGNED, (int64_t)a < (int64_t)b ? a : b)
OPERATION(simd_umaxv, across, UNSIGNED, a > b ? a : b)
OPERATION(simd_uminv, across, UNSIGNED, a < b ? a : b)
OPERATION(simd_saddlv, across, SIGNED, a + b)
OPERATION(simd_uaddlv, across, UNSIGNED, a + b)

/* --- into lanes of twice the width ------------------------------------------------------ */

/* The first operand is of the result's width already if `is_wide`. */
ALWAYS_INLINE void widen(struct vcpu *cpu, const struct insn *insn, unsigned size, bool is_signed,
                         bool is_wide, lane_operation *operation)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector n = cpu->v[insn->rn], d = cpu->v[insn->rd];
    const struct vector m = second_operand(cpu, insn, size);
    struct vector result = {0};
    unsigned first = insn->flags & SIMD_UPPER ? 8u >> size : 0;
    for (unsigned i = 0; i < (unsigned)insn->amount >> (size + 1); i++)
        set_lane(&result, size + 1, i,
                 operation(cpu,
                           is_wide ? get_lane(&n, size + 1, i)
                                   : extended_lane(&n, size, first + i, is_signed),
                           extended_lane(&m, size, first + i, is_signed),
                           extended_lane(&d, size + 1, i, is_signed), 16u << size));
    write_vector(cpu, insn->rd, &result, insn->amount);
}

ALWAYS_INLINE void both_narrow(struct vcpu *cpu, const struct insn *insn, unsigned size,
                               bool is_signed, lane_operation *operation)
{
    widen(cpu, insn, size, is_signed, false, operation);
}
ALWAYS_INLINE void first_wide(struct vcpu *cpu, const struct insn *insn, unsigned size,
                              bool is_signed, lane_operation *operation)
{
    widen(cpu, insn, size, is_signed, true, operation);
}

OPERATION(simd_saddl, both_narrow, SIGNED, a + b)
OPERATION(simd_uaddl, both_narrow, UNSIGNED, a + b)
OPERATION(simd_ssubl, both_narrow, SIGNED, a - b)
OPERATION(simd_usubl, both_narrow, UNSIGNED, a - b)
OPERATION(simd_saddw, first_wide, SIGNED, a + b)
OPERATION(simd_uaddw, first_wide, UNSIGNED, a + b)
OPERATION(simd_ssubw, first_wide, SIGNED, a - b)
OPERATION(simd_usubw, first_wide, UNSIGNED, a - b)
OPERATION(simd_sabal, both_narrow, SIGNED, c + distance_signed(a, b))
OPERATION(simd_uabal, both_narrow, UNSIGNED, c + distance_unsigned(a, b))
OPERATION(simd_sabdl, both_narrow, SIGNED, distance_signed(a, b))
OPERATION(simd_uabdl, both_narrow, UNSIGNED, distance_unsigned(a, b))
OPERATION(simd_smull, both_narrow, SIGNED, a * b)
OPERATION(simd_umull, both_narrow, UNSIGNED, a * b)
OPERATION(simd_smlal, both_narrow, SIGNED, c + a * b)
OPERATION(simd_umlal, both_narrow, UNSIGNED, c + a * b)
OPERATION(simd_smlsl, both_narrow, SIGNED, c - a * b)
OPERATION(simd_umlsl, both_narrow, UNSIGNED, c - a * b)
OPERATION(simd_sshll, both_narrow, SIGNED, a << (b & 0xff))
OPERATION(simd_ushll, both_narrow, UNSIGNED, a << (b & 0xff))
OPERATION(simd_shll, both_narrow, UNSIGNED, a << (bits / 2))
OPERATION(pmull_bytes, both_narrow, UNSIGNED, polynomial_multiply(a, b))

#define DOUBLED(a) saturate_signed(cpu, (__int128)(int64_t)(a) * (int64_t)b * 2, bits)
OPERATION(simd_sqdmull, both_narrow, SIGNED, DOUBLED(a))
OPERATION(simd_sqdmlal, both_narrow, SIGNED,
          saturate_signed(cpu, (__int128)(int64_t)c + (int64_t)DOUBLED(a), bits))
OPERATION(simd_sqdmlsl, both_narrow, SIGNED,
          saturate_signed(cpu, (__int128)(int64_t)c - (int64_t)DOUBLED(a), bits))

/* PMULL of 64 bits to 128. */
static void run_pmull_long(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    unsigned half = insn->flags & SIMD_UPPER ? 1 : 0;
    uint64_t a = cpu->v[insn->rn].u64[half], b = cpu->v[insn->rm].u64[half];
    struct vector product = {0};
    for (unsigned bit = 0; bit < 64; bit++) {
        uint64_t mask = 0 - (b >> bit & 1);
        product.u64[0] ^= a << bit & mask;
        product.u64[1] ^= (bit ? a >> (64 - bit) : 0) & mask;
    }
    cpu->v[insn->rd] = product;
}

simd_operation simd_pmull = {pmull_bytes_0, NULL, NULL, run_pmull_long};

/* --- into lanes of half the width ------------------------------------------------------- */

/* The "2" forms keep the lower half of the destination. */
ALWAYS_INLINE void narrowing(struct vcpu *cpu, const struct insn *insn, unsigned size,
                             bool is_signed, lane_operation *operation)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector n = cpu->v[insn->rn], m = second_operand(cpu, insn, size);
    struct vector result = {0};
    for (unsigned i = 0; i < (unsigned)insn->amount >> size; i++)
        set_lane(&result, size, i,
                 operation(cpu, extended_lane(&n, size + 1, i, is_signed),
                           extended_lane(&m, size + 1, i, is_signed), 0, 8u << size));
    if (insn->flags & SIMD_UPPER)
        cpu->v[insn->rd].u64[1] = result.u64[0];
    else
        write_vector(cpu, insn->rd, &result, insn->amount);
}

#define AMOUNT ((unsigned)b & 0xff)
#define HALF_OF(bit) (1ull << ((bit) - 1))

OPERATION(simd_addhn, narrowing, UNSIGNED, (a + b) >> bits)
OPERATION(simd_raddhn, narrowing, UNSIGNED, (a + b + HALF_OF(bits)) >> bits)
OPERATION(simd_subhn, narrowing, UNSIGNED, (a - b) >> bits)
OPERATION(simd_rsubhn, narrowing, UNSIGNED, (a - b + HALF_OF(bits)) >> bits)
OPERATION(simd_shrn, narrowing, UNSIGNED, a >> AMOUNT)
OPERATION(simd_rshrn, narrowing, UNSIGNED, (a + HALF_OF(AMOUNT)) >> AMOUNT)

#define SIGNED_RIGHT ((int64_t)a >> AMOUNT)
#define SIGNED_ROUNDED (((__int128)(int64_t)a + HALF_OF(AMOUNT)) >> AMOUNT)
OPERATION(simd_sqshrn, narrowing, SIGNED, saturate_signed(cpu, SIGNED_RIGHT, bits))
OPERATION(simd_sqrshrn, narrowing, SIGNED, saturate_signed(cpu, SIGNED_ROUNDED, bits))
OPERATION(simd_sqshrun, narrowing, SIGNED, saturate_unsigned(cpu, SIGNED_RIGHT, bits))
OPERATION(simd_sqrshrun, narrowing, SIGNED, saturate_unsigned(cpu, SIGNED_ROUNDED, bits))
OPERATION(simd_uqshrn, narrowing, UNSIGNED, saturate_unsigned(cpu, a >> AMOUNT, bits))
OPERATION(simd_uqrshrn, narrowing, UNSIGNED,
          saturate_unsigned(cpu, ((__int128)a + HALF_OF(AMOUNT)) >> AMOUNT, bits))

/* --- dot products of bytes, added to lanes of 32 bits ----------------------------------- */

ALWAYS_INLINE void dot(struct vcpu *cpu, const struct insn *insn, bool is_signed)
{
    if (!fp_enabled(cpu))
        return;
    const struct vector n = cpu->v[insn->rn], m = second_operand(cpu, insn, 2);
    struct vector result = cpu->v[insn->rd];
    for (unsigned i = 0; i < 16; i++)
        result.u32[i / 4] += (uint32_t)(extended_lane(&n, 0, i, is_signed) *
                                        extended_lane(&m, 0, i, is_signed));
    write_vector(cpu, insn->rd, &result, insn->amount);
}

void run_simd_sdot(struct vcpu *cpu, const struct insn *insn)
{
    dot(cpu, insn, SIGNED);
}
void run_simd_udot(struct vcpu *cpu, const struct insn *insn)
{
    dot(cpu, insn, UNSIGNED);
}
