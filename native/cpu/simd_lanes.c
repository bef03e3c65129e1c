/* SIMD integer operations on lanes of one width: each is an expression, and a handler for each size
 * of lanes. simd_decode.c says which instruction is which. */
#include "simd_lanes.h"

/* By `shift` to the left, or to the right if it is negative. What a shift to the left takes out of
 * the lane leaves a value beyond it, so that saturation sees it. */
static __int128 shifted(__int128 value, int shift, unsigned bits, bool rounds)
{
    if (shift >= (int)bits)
        return ((value > 0) - (value < 0)) * ((__int128)1 << bits);
    if (shift >= 0)
        return value * ((__int128)1 << shift);
    int right = shift < -127 ? 127 : -shift;
    return (value + (rounds ? (__int128)1 << (right - 1) : 0)) >> right;
}

/* By 1 to 64. */
ALWAYS_INLINE uint64_t right_unsigned(uint64_t value, unsigned amount)
{
    return amount > 63 ? 0 : value >> amount;
}
ALWAYS_INLINE uint64_t right_signed(uint64_t value, unsigned amount)
{
    return (uint64_t)((int64_t)value >> (amount > 63 ? 63 : amount));
}

/* All lanes of 128 bits are computed, whatever the instruction's width, as the number of rounds is
 * then a constant; only an operation that can saturate must leave out those that are not there. */
ALWAYS_INLINE void each_lane(struct vcpu *cpu, const struct insn *insn, unsigned size,
                             bool is_signed, lane_operation *operation, unsigned lanes)
{
    const struct vector n = cpu->v[insn->rn], d = cpu->v[insn->rd];
    const struct vector m = second_operand(cpu, insn, size);
    struct vector result = {0};
    for (unsigned i = 0; i < lanes; i++)
        set_lane(&result, size, i,
                 operation(cpu, extended_lane(&n, size, i, is_signed),
                           extended_lane(&m, size, i, is_signed),
                           extended_lane(&d, size, i, is_signed), 8u << size));
    write_vector(cpu, insn->rd, &result, insn->amount);
}

ALWAYS_INLINE void plain(struct vcpu *cpu, const struct insn *insn, unsigned size, bool is_signed,
                         lane_operation *operation)
{
    if (fp_enabled(cpu))
        each_lane(cpu, insn, size, is_signed, operation, 16u >> size);
}

ALWAYS_INLINE void saturating(struct vcpu *cpu, const struct insn *insn, unsigned size,
                              bool is_signed, lane_operation *operation)
{
    if (fp_enabled(cpu))
        each_lane(cpu, insn, size, is_signed, operation, (unsigned)insn->amount >> size);
}

/* --- arithmetic ------------------------------------------------------------------------- */

OPERATION(simd_add, plain, UNSIGNED, a + b)
OPERATION(simd_sub, plain, UNSIGNED, a - b)
OPERATION(simd_mul, plain, UNSIGNED, a * b)
OPERATION(simd_mla, plain, UNSIGNED, c + a * b)
OPERATION(simd_mls, plain, UNSIGNED, c - a * b)
OPERATION(simd_pmul, plain, UNSIGNED, polynomial_multiply(a, b))
OPERATION(simd_abs, plain, SIGNED, (int64_t)a < 0 ? 0 - a : a)
OPERATION(simd_neg, plain, UNSIGNED, 0 - a)
OPERATION(simd_shadd, plain, SIGNED, (int64_t)(a + b) >> 1)
OPERATION(simd_uhadd, plain, UNSIGNED, (a + b) >> 1)
OPERATION(simd_srhadd, plain, SIGNED, (int64_t)(a + b + 1) >> 1)
OPERATION(simd_urhadd, plain, UNSIGNED, (a + b + 1) >> 1)
OPERATION(simd_shsub, plain, SIGNED, (int64_t)(a - b) >> 1)
OPERATION(simd_uhsub, plain, UNSIGNED, (a - b) >> 1)
OPERATION(simd_smax, plain, SIGNED, (int64_t)a > (int64_t)b ? a : b)
OPERATION(simd_umax, plain, UNSIGNED, a > b ? a : b)
OPERATION(simd_smin, plain, SIGNED, (int64_t)a < (int64_t)b ? a : b)
OPERATION(simd_umin, plain, UNSIGNED, a < b ? a : b)
OPERATION(simd_sabd, plain, SIGNED, distance_signed(a, b))
OPERATION(simd_uabd, plain, UNSIGNED, distance_unsigned(a, b))
OPERATION(simd_saba, plain, SIGNED, c + distance_signed(a, b))
OPERATION(simd_uaba, plain, UNSIGNED, c + distance_unsigned(a, b))

/* --- comparisons: all ones, or zero ----------------------------------------------------- */

OPERATION(simd_cmgt, plain, SIGNED, 0 - (uint64_t)((int64_t)a > (int64_t)b))
OPERATION(simd_cmge, plain, SIGNED, 0 - (uint64_t)((int64_t)a >= (int64_t)b))
OPERATION(simd_cmlt, plain, SIGNED, 0 - (uint64_t)((int64_t)a < (int64_t)b))
OPERATION(simd_cmle, plain, SIGNED, 0 - (uint64_t)((int64_t)a <= (int64_t)b))
OPERATION(simd_cmhi, plain, UNSIGNED, 0 - (uint64_t)(a > b))
OPERATION(simd_cmhs, plain, UNSIGNED, 0 - (uint64_t)(a >= b))
OPERATION(simd_cmeq, plain, UNSIGNED, 0 - (uint64_t)(a == b))
OPERATION(simd_cmtst, plain, UNSIGNED, 0 - (uint64_t)((a & b) != 0))

/* --- bits ------------------------------------------------------------------------------- */

OPERATION(simd_and, plain, UNSIGNED, a & b)
OPERATION(simd_bic, plain, UNSIGNED, a & ~b)
OPERATION(simd_orr, plain, UNSIGNED, a | b)
OPERATION(simd_orn, plain, UNSIGNED, a | ~b)
OPERATION(simd_eor, plain, UNSIGNED, a ^ b)
OPERATION(simd_bsl, plain, UNSIGNED, ((a ^ b) & c) ^ b)
OPERATION(simd_bit, plain, UNSIGNED, ((a ^ c) & b) ^ c)
OPERATION(simd_bif, plain, UNSIGNED, ((a ^ c) & ~b) ^ c)
OPERATION(simd_not, plain, UNSIGNED, ~a)
OPERATION(simd_rbit, plain, UNSIGNED, __builtin_bitreverse8((uint8_t)a))
OPERATION(simd_cnt, plain, UNSIGNED, __builtin_popcount((uint8_t)a))
OPERATION(simd_clz, plain, UNSIGNED, leading_zeros(a, bits))
OPERATION(simd_cls, plain, SIGNED, leading_zeros(a ^ (uint64_t)((int64_t)a >> 63), bits) - 1)

/* --- shifts; the immediate ones have their amount in every byte of the second operand --- */

#define AMOUNT ((unsigned)b & 0xff)
#define MASK (~0ull >> (64 - bits))

OPERATION(simd_shl, plain, UNSIGNED, a << AMOUNT)
OPERATION(simd_sshr, plain, SIGNED, right_signed(a, AMOUNT))
OPERATION(simd_ushr, plain, UNSIGNED, right_unsigned(a, AMOUNT))
OPERATION(simd_ssra, plain, SIGNED, c + right_signed(a, AMOUNT))
OPERATION(simd_usra, plain, UNSIGNED, c + right_unsigned(a, AMOUNT))
OPERATION(simd_srshr, plain, SIGNED, right_signed(a, AMOUNT) + (right_signed(a, AMOUNT - 1) & 1))
OPERATION(simd_urshr, plain, UNSIGNED,
          right_unsigned(a, AMOUNT) + (right_unsigned(a, AMOUNT - 1) & 1))
OPERATION(simd_srsra, plain, SIGNED,
          c + right_signed(a, AMOUNT) + (right_signed(a, AMOUNT - 1) & 1))
OPERATION(simd_ursra, plain, UNSIGNED,
          c + right_unsigned(a, AMOUNT) + (right_unsigned(a, AMOUNT - 1) & 1))
OPERATION(simd_sri, plain, UNSIGNED,
          (c & ~right_unsigned(MASK, AMOUNT)) | right_unsigned(a, AMOUNT))
OPERATION(simd_sli, plain, UNSIGNED, (c & ~(~0ull << AMOUNT)) | a << AMOUNT)

#define SHIFTED(rounds) shifted(LANE_INTEGER(a), (int8_t)b, bits, rounds)

#define LANE_INTEGER(value) ((__int128)(int64_t)(value))
OPERATION(simd_sshl, plain, SIGNED, SHIFTED(false))
OPERATION(simd_srshl, plain, SIGNED, SHIFTED(true))
OPERATION(simd_sqshl, saturating, SIGNED, saturate_signed(cpu, SHIFTED(false), bits))
OPERATION(simd_sqrshl, saturating, SIGNED, saturate_signed(cpu, SHIFTED(true), bits))
OPERATION(simd_sqshlu, saturating, SIGNED, saturate_unsigned(cpu, SHIFTED(false), bits))
#undef LANE_INTEGER

#define LANE_INTEGER(value) ((__int128)(value))
OPERATION(simd_ushl, plain, UNSIGNED, SHIFTED(false))
OPERATION(simd_urshl, plain, UNSIGNED, SHIFTED(true))
OPERATION(simd_uqshl, saturating, UNSIGNED, saturate_unsigned(cpu, SHIFTED(false), bits))
OPERATION(simd_uqrshl, saturating, UNSIGNED, saturate_unsigned(cpu, SHIFTED(true), bits))
#undef LANE_INTEGER

/* --- saturating arithmetic -------------------------------------------------------------- */

#define WIDE(value) ((__int128)(int64_t)(value))

OPERATION(simd_sqadd, saturating, SIGNED, saturate_signed(cpu, WIDE(a) + WIDE(b), bits))
OPERATION(simd_uqadd, saturating, UNSIGNED, saturate_unsigned(cpu, (__int128)a + b, bits))
OPERATION(simd_sqsub, saturating, SIGNED, saturate_signed(cpu, WIDE(a) - WIDE(b), bits))
OPERATION(simd_uqsub, saturating, UNSIGNED, saturate_unsigned(cpu, (__int128)a - b, bits))
OPERATION(simd_suqadd, saturating, SIGNED,
          saturate_signed(cpu, WIDE(c) + (__int128)(a & MASK), bits))
OPERATION(simd_usqadd, saturating, UNSIGNED,
          saturate_unsigned(cpu, (__int128)c + sign_extend(a, bits), bits))
OPERATION(simd_sqabs, saturating, SIGNED,
          saturate_signed(cpu, (int64_t)a < 0 ? -WIDE(a) : WIDE(a), bits))
OPERATION(simd_sqneg, saturating, SIGNED, saturate_signed(cpu, -WIDE(a), bits))
OPERATION(simd_sqdmulh, saturating, SIGNED, doubled_high(cpu, a, b, 0, 0, bits))
OPERATION(simd_sqrdmulh, saturating, SIGNED, doubled_high(cpu, a, b, 0, 1, bits))
OPERATION(simd_sqrdmlah, saturating, SIGNED,
          doubled_high(cpu, a, b, WIDE(c) * ((__int128)1 << bits), 1, bits))
OPERATION(simd_sqrdmlsh, saturating, SIGNED,
          doubled_high(cpu, 0 - a, b, WIDE(c) * ((__int128)1 << bits), 1, bits))

/* --- the bytes of each group of lanes change places: REV64, REV32, REV16 ---------------- */

/* `shift`: which bits of a byte's number change. */
void run_simd_reverse(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector n = cpu->v[insn->rn], result;
    for (unsigned i = 0; i < 16; i++)
        result.u8[i] = n.u8[i ^ insn->shift];
    write_vector(cpu, insn->rd, &result, insn->amount);
}
