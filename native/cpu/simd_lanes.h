/* What the files of SIMD integer operations share: an operation is an expression on one lane. */
#ifndef TA_SIMD_LANES_H
#define TA_SIMD_LANES_H

#include "simd.h"

/* a, b and c are lanes of the first and second operand and of the destination, extended to 64 bits;
 * `bits` is the width of the result, to which the caller shortens it. */
typedef uint64_t lane_operation(struct vcpu *cpu, uint64_t a, uint64_t b, uint64_t c,
                                unsigned bits);

enum { UNSIGNED, SIGNED };

/* Defines the four handlers of an operation: `loop` applies `expression` to all lanes. */
#define OPERATION(name, loop, is_signed, ...)                                                 \
    ALWAYS_INLINE uint64_t name##_lane(struct vcpu *cpu, uint64_t a, uint64_t b, uint64_t c,  \
                                       unsigned bits)                                         \
    {                                                                                         \
        (void)cpu, (void)a, (void)b, (void)c, (void)bits;                                     \
        return (uint64_t)(__VA_ARGS__);                                                       \
    }                                                                                         \
    OPERATION_OF_SIZE(name, 0, loop, is_signed)                                               \
    OPERATION_OF_SIZE(name, 1, loop, is_signed)                                               \
    OPERATION_OF_SIZE(name, 2, loop, is_signed)                                               \
    OPERATION_OF_SIZE(name, 3, loop, is_signed)                                               \
    simd_operation name = {name##_0, name##_1, name##_2, name##_3};

#define OPERATION_OF_SIZE(name, size, loop, is_signed)                                        \
    static void name##_##size(struct vcpu *cpu, const struct insn *insn)                      \
    {                                                                                         \
        loop(cpu, insn, size, is_signed, name##_lane);                                        \
    }

ALWAYS_INLINE uint64_t extended_lane(const struct vector *vector, unsigned size, unsigned index,
                                     bool is_signed)
{
    uint64_t lane = get_lane(vector, size, index);
    return is_signed ? (uint64_t)sign_extend(lane, 8u << size) : lane;
}

ALWAYS_INLINE uint64_t distance_signed(uint64_t a, uint64_t b)
{
    return (int64_t)a > (int64_t)b ? a - b : b - a;
}
ALWAYS_INLINE uint64_t distance_unsigned(uint64_t a, uint64_t b)
{
    return a > b ? a - b : b - a;
}

/* Of polynomials over {0, 1} with degrees below 8 (PolynomialMult()). */
ALWAYS_INLINE uint64_t polynomial_multiply(uint64_t a, uint64_t b)
{
    uint64_t product = 0;
    for (unsigned bit = 0; bit < 8; bit++)
        product ^= a << bit & (0 - (b >> bit & 1));
    return product;
}

ALWAYS_INLINE uint64_t leading_zeros(uint64_t value, unsigned bits)
{
    return value ? (uint64_t)__builtin_clzll(value) - (64 - bits) : bits;
}

/* SignedSatQ() and UnsignedSatQ() (shared/functions/common). */
ALWAYS_INLINE uint64_t saturate_signed(struct vcpu *cpu, __int128 value, unsigned bits)
{
    __int128 most = ((__int128)1 << (bits - 1)) - 1, least = -most - 1;
    if (likely(value >= least && value <= most))
        return (uint64_t)value;
    cpu->fpsr |= FPSR_QC;
    return (uint64_t)(value < 0 ? least : most);
}
ALWAYS_INLINE uint64_t saturate_unsigned(struct vcpu *cpu, __int128 value, unsigned bits)
{
    __int128 most = ((__int128)1 << bits) - 1;
    if (likely(value >= 0 && value <= most))
        return (uint64_t)value;
    cpu->fpsr |= FPSR_QC;
    return value < 0 ? 0 : (uint64_t)most;
}

/* SQDMULH and its kin: the upper half of twice the product, to which `addend` was added; rounded if
 * `round` is 1. */
ALWAYS_INLINE uint64_t doubled_high(struct vcpu *cpu, uint64_t a, uint64_t b, __int128 addend,
                                    unsigned round, unsigned bits)
{
    __int128 product = (__int128)(int64_t)a * (int64_t)b * 2;
    return saturate_signed(cpu, (addend + product + ((__int128)round << (bits - 1))) >> bits,
                           bits);
}

/* --- the operations --------------------------------------------------------------------- */

/* Of lanes of one width (simd_lanes.c). */
extern simd_operation simd_add, simd_sub, simd_mul, simd_mla, simd_mls, simd_pmul, simd_abs,
    simd_neg, simd_shadd, simd_uhadd, simd_srhadd, simd_urhadd, simd_shsub, simd_uhsub, simd_smax,
    simd_umax, simd_smin, simd_umin, simd_sabd, simd_uabd, simd_saba, simd_uaba, simd_cmgt,
    simd_cmge, simd_cmlt, simd_cmle, simd_cmhi, simd_cmhs, simd_cmeq, simd_cmtst, simd_and,
    simd_bic, simd_orr, simd_orn, simd_eor, simd_bsl, simd_bit, simd_bif, simd_not, simd_rbit,
    simd_cnt, simd_clz, simd_cls, simd_shl, simd_sshr, simd_ushr, simd_ssra, simd_usra, simd_srshr,
    simd_urshr, simd_srsra, simd_ursra, simd_sri, simd_sli, simd_sshl, simd_srshl, simd_sqshl,
    simd_sqrshl, simd_sqshlu, simd_ushl, simd_urshl, simd_uqshl, simd_uqrshl, simd_sqadd,
    simd_uqadd, simd_sqsub, simd_uqsub, simd_suqadd, simd_usqadd, simd_sqabs, simd_sqneg,
    simd_sqdmulh, simd_sqrdmulh, simd_sqrdmlah, simd_sqrdmlsh;
insn_handler run_simd_reverse;

/* From neighbouring lanes, and from lanes to wider and narrower ones (simd_widths.c). */
extern simd_operation simd_addp, simd_smaxp, simd_sminp, simd_umaxp, simd_uminp, simd_addv,
    simd_smaxv, simd_sminv, simd_umaxv, simd_uminv, simd_saddlv, simd_uaddlv, simd_saddlp,
    simd_uaddlp, simd_sadalp, simd_uadalp;
extern simd_operation simd_saddl, simd_uaddl, simd_ssubl, simd_usubl, simd_saddw, simd_uaddw,
    simd_ssubw, simd_usubw, simd_sabal, simd_uabal, simd_sabdl, simd_uabdl, simd_smull, simd_umull,
    simd_smlal, simd_umlal, simd_smlsl, simd_umlsl, simd_sqdmull, simd_sqdmlal, simd_sqdmlsl,
    simd_pmull, simd_sshll, simd_ushll, simd_shll;
extern simd_operation simd_addhn, simd_raddhn, simd_subhn, simd_rsubhn, simd_shrn, simd_rshrn,
    simd_sqshrn, simd_sqrshrn, simd_uqshrn, simd_uqrshrn, simd_sqshrun, simd_sqrshrun;
insn_handler run_simd_sdot, run_simd_udot;

#endif
