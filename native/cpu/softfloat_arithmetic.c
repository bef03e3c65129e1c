/* Sums, products, quotients, roots, and the fused steps (shared/functions/float). */
#include "softfloat.h"

typedef unsigned __int128 uint128;

static bool has_nan(struct fp_number a, struct fp_number b)
{
    return a.type == FPTYPE_NAN || b.type == FPTYPE_NAN;
}

static uint64_t process_two_nans(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return fp_process_nans(size, (const uint64_t[]){a, b}, 2, env);
}

/* --- sums ----------------------------------------------------------------------------------- */

static uint128 shift_right_jam128(uint128 value, uint32_t count)
{
    if (!count)
        return value;
    return count < 128 ? value >> count | (value << (128 - count) != 0) : value != 0;
}

/* A finite number that is not zero, with twice the digits: bit 127 of the significand is set. */
struct wide_number {
    bool sign;
    int32_t exponent;
    uint128 significand;
};

static struct wide_number widen(struct fp_number number)
{
    return (struct wide_number){number.sign, number.exponent,
                                (uint128)number.significand << 64};
}

static struct wide_number multiply(struct fp_number a, struct fp_number b)
{
    uint128 product = (uint128)a.significand * b.significand;
    bool carry = product >> 127;
    return (struct wide_number){a.sign ^ b.sign, a.exponent + b.exponent + carry,
                                carry ? product : product << 1};
}

/* The significand's low half, if any of it is set, goes into bit 0. */
static uint64_t round_wide(enum fp_size size, struct wide_number wide, struct fp_env *env)
{
    uint64_t low = (uint64_t)wide.significand;
    struct fp_number number = {FPTYPE_NORMAL, wide.sign, wide.exponent,
                               (uint64_t)(wide.significand >> 64) | (low != 0)};
    return fp_round(size, number, env);
}

static struct wide_number normalise(struct wide_number wide)
{
    uint64_t high = (uint64_t)(wide.significand >> 64);
    int shift = high ? __builtin_clzll(high)
                     : 64 + __builtin_clzll((uint64_t)wide.significand);
    wide.significand <<= shift;
    wide.exponent -= shift;
    return wide;
}

/* A product of two doubles has 106 digits, so that the shift by one, which makes room for a carry,
 * loses none. If the other shift does, the exponents differ by so much that the result has a
 * hundred digits that are right. */
static uint64_t add_wide(enum fp_size size, struct wide_number a, struct wide_number b,
                         int32_t scale, struct fp_env *env)
{
    bool swap = a.exponent < b.exponent ||
                (a.exponent == b.exponent && a.significand < b.significand);
    struct wide_number large = swap ? b : a, small = swap ? a : b;
    uint32_t distance = (uint32_t)(large.exponent - small.exponent);
    uint128 x = large.significand >> 1, y = shift_right_jam128(small.significand >> 1, distance);
    large.significand = a.sign == b.sign ? x + y : x - y;
    if (!large.significand)
        return fp_cancelled(size, env);
    large.exponent += 1 + scale;
    return round_wide(size, normalise(large), env);
}

static uint64_t add_finite(enum fp_size size, struct fp_number a, struct fp_number b,
                           struct fp_env *env)
{
    if (a.type == FPTYPE_ZERO && b.type == FPTYPE_ZERO)
        return a.sign == b.sign ? fp_signed_zero(size, a.sign) : fp_cancelled(size, env);
    if (a.type == FPTYPE_ZERO)
        return fp_round(size, b, env);
    if (b.type == FPTYPE_ZERO)
        return fp_round(size, a, env);
    return add_wide(size, widen(a), widen(b), 0, env);
}

static uint64_t add_or_subtract(enum fp_size size, uint64_t a_value, uint64_t b_value,
                                bool subtract, struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (has_nan(a, b))
        return process_two_nans(size, a_value, b_value, env);
    b.sign ^= subtract;
    if (a.type == FPTYPE_INFINITY && b.type == FPTYPE_INFINITY && a.sign != b.sign)
        return fp_invalid(size, env);
    if (a.type == FPTYPE_INFINITY || b.type == FPTYPE_INFINITY)
        return fp_signed_infinity(size, a.type == FPTYPE_INFINITY ? a.sign : b.sign);
    return add_finite(size, a, b, env);
}

uint64_t fp_add(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return add_or_subtract(size, a, b, false, env);
}

uint64_t fp_sub(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return add_or_subtract(size, a, b, true, env);
}

uint64_t fp_abs(enum fp_size size, uint64_t a, struct fp_env *env)
{
    (void)env;
    return a & ~fp_formats[size].sign;
}

uint64_t fp_neg(enum fp_size size, uint64_t a, struct fp_env *env)
{
    (void)env;
    return a ^ fp_formats[size].sign;
}

/* FABD: the absolute value also of a NaN. */
uint64_t fp_abd(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return fp_abs(size, fp_sub(size, a, b, env), env);
}

/* --- products and quotients ----------------------------------------------------------------- */

/* Infinity times zero, in either order. */
static bool is_invalid_product(struct fp_number a, struct fp_number b)
{
    return (a.type == FPTYPE_INFINITY && b.type == FPTYPE_ZERO) ||
           (a.type == FPTYPE_ZERO && b.type == FPTYPE_INFINITY);
}

static uint64_t multiply_valid(enum fp_size size, struct fp_number a, struct fp_number b,
                               struct fp_env *env)
{
    bool sign = a.sign ^ b.sign;
    if (a.type == FPTYPE_INFINITY || b.type == FPTYPE_INFINITY)
        return fp_signed_infinity(size, sign);
    if (a.type == FPTYPE_ZERO || b.type == FPTYPE_ZERO)
        return fp_signed_zero(size, sign);
    return round_wide(size, multiply(a, b), env);
}

uint64_t fp_mul(enum fp_size size, uint64_t a_value, uint64_t b_value, struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (has_nan(a, b))
        return process_two_nans(size, a_value, b_value, env);
    if (is_invalid_product(a, b))
        return fp_invalid(size, env);
    return multiply_valid(size, a, b, env);
}

/* FNMUL: the negative also of a NaN. */
uint64_t fp_neg_mul(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return fp_neg(size, fp_mul(size, a, b, env), env);
}

static uint64_t fp_power_of_two(enum fp_size size, bool sign, int32_t exponent)
{
    const struct fp_format *format = &fp_formats[size];
    return fp_signed(size, sign, (uint64_t)(format->bias + exponent) << format->fraction_bits);
}

/* FMULX: infinity times zero is two. */
uint64_t fp_mul_x(enum fp_size size, uint64_t a_value, uint64_t b_value, struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (has_nan(a, b))
        return process_two_nans(size, a_value, b_value, env);
    if (is_invalid_product(a, b))
        return fp_power_of_two(size, a.sign ^ b.sign, 1);
    return multiply_valid(size, a, b, env);
}

/* The quotient of the significands has 63 digits; the remainder goes into bit 0. */
static uint64_t divide(enum fp_size size, struct fp_number a, struct fp_number b,
                       struct fp_env *env)
{
    bool is_less = a.significand < b.significand;
    uint128 dividend = (uint128)a.significand << (62 + is_less);
    uint64_t quotient = (uint64_t)(dividend / b.significand);
    bool has_rest = (uint128)quotient * b.significand != dividend;
    struct fp_number number = {FPTYPE_NORMAL, a.sign ^ b.sign, a.exponent - b.exponent - is_less,
                               quotient << 1 | has_rest};
    return fp_round(size, number, env);
}

uint64_t fp_div(enum fp_size size, uint64_t a_value, uint64_t b_value, struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (has_nan(a, b))
        return process_two_nans(size, a_value, b_value, env);
    if (a.type == b.type && a.type != FPTYPE_NORMAL)
        return fp_invalid(size, env);
    bool sign = a.sign ^ b.sign;
    if (a.type == FPTYPE_INFINITY)
        return fp_signed_infinity(size, sign);
    if (b.type == FPTYPE_ZERO) {
        env->fpsr |= FPSR_DZC;
        return fp_signed_infinity(size, sign);
    }
    if (a.type == FPTYPE_ZERO || b.type == FPTYPE_INFINITY)
        return fp_signed_zero(size, sign);
    return divide(size, a, b, env);
}

/* --- square root ---------------------------------------------------------------------------- */

/* Digit by digit: 64 of them from a radicand whose bit 127 or 126 is set. */
static uint64_t integer_root(uint128 radicand)
{
    uint128 root = 0;
    for (int i = 63; i >= 0; i--) {
        uint128 candidate = root | (uint128)1 << i;
        if (candidate * candidate <= radicand)
            root = candidate;
    }
    return (uint64_t)root;
}

static uint64_t root_of_normal(enum fp_size size, struct fp_number a, struct fp_env *env)
{
    bool is_odd = a.exponent & 1;
    uint128 radicand = (uint128)a.significand << (63 + is_odd);
    uint64_t root = integer_root(radicand);
    bool has_rest = (uint128)root * root != radicand;
    struct fp_number number = {FPTYPE_NORMAL, false, (a.exponent - is_odd) / 2, root | has_rest};
    return fp_round(size, number, env);
}

uint64_t fp_sqrt(enum fp_size size, uint64_t a_value, struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env);
    if (a.type == FPTYPE_NAN)
        return fp_process_nans(size, &a_value, 1, env);
    if (a.type == FPTYPE_ZERO)
        return fp_signed_zero(size, a.sign);
    if (a.sign)
        return fp_invalid(size, env);
    return a.type == FPTYPE_INFINITY ? fp_signed_infinity(size, false)
                                  : root_of_normal(size, a, env);
}

/* --- fused operations ------------------------------------------------------------------------ */

/* (addend + a * b) * 2^scale, rounded once; all finite. */
static uint64_t fuse(enum fp_size size, struct fp_number addend, struct fp_number a,
                     struct fp_number b, int32_t scale, struct fp_env *env)
{
    bool product_sign = a.sign ^ b.sign;
    bool is_product_zero = a.type == FPTYPE_ZERO || b.type == FPTYPE_ZERO;
    if (is_product_zero && addend.type == FPTYPE_ZERO)
        return addend.sign == product_sign ? fp_signed_zero(size, addend.sign)
                                           : fp_cancelled(size, env);
    if (is_product_zero) {
        addend.exponent += scale;
        return fp_round(size, addend, env);
    }
    if (addend.type == FPTYPE_ZERO)
        return round_wide(size, multiply(a, b), env);
    return add_wide(size, widen(addend), multiply(a, b), scale, env);
}

/* FPMulAdd() without NaNs. */
static uint64_t mul_add(enum fp_size size, struct fp_number addend, struct fp_number a,
                        struct fp_number b, struct fp_env *env)
{
    bool product_sign = a.sign ^ b.sign;
    bool is_product_infinite = a.type == FPTYPE_INFINITY || b.type == FPTYPE_INFINITY;
    if (is_invalid_product(a, b) || (is_product_infinite && addend.type == FPTYPE_INFINITY &&
                                     addend.sign != product_sign))
        return fp_invalid(size, env);
    if (addend.type == FPTYPE_INFINITY)
        return fp_signed_infinity(size, addend.sign);
    if (is_product_infinite)
        return fp_signed_infinity(size, product_sign);
    return fuse(size, addend, a, b, 0, env);
}

uint64_t fp_mul_add(enum fp_size size, uint64_t addend_value, uint64_t a_value,
                    uint64_t b_value, struct fp_env *env)
{
    struct fp_number addend = fp_unpack(size, addend_value, env);
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (addend.type != FPTYPE_NAN && !has_nan(a, b))
        return mul_add(size, addend, a, b, env);
    uint64_t nan = fp_process_nans(size, (const uint64_t[]){addend_value, a_value, b_value}, 3,
                                   env);
    bool is_quiet = addend.type == FPTYPE_NAN && !fp_is_signalling(size, addend_value);
    return is_quiet && is_invalid_product(a, b) ? fp_invalid(size, env) : nan;
}

/* (constant - a * b) * 2^scale, as a step of Newton's method; infinity times zero counts as zero. */
static uint64_t newton_step(enum fp_size size, struct fp_number constant, int32_t scale,
                            const uint64_t operands[2], struct fp_env *env)
{
    uint64_t negated = fp_neg(size, operands[0], env);
    struct fp_number a = fp_unpack(size, negated, env), b = fp_unpack(size, operands[1], env);
    if (has_nan(a, b))
        return process_two_nans(size, negated, operands[1], env);
    if (is_invalid_product(a, b))
        a = b = (struct fp_number){.type = FPTYPE_ZERO};
    if (a.type == FPTYPE_INFINITY || b.type == FPTYPE_INFINITY)
        return fp_signed_infinity(size, a.sign ^ b.sign);
    return fuse(size, constant, a, b, scale, env);
}

uint64_t fp_recip_step(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    struct fp_number two = {FPTYPE_NORMAL, false, 1, 1ull << 63};
    return newton_step(size, two, 0, (const uint64_t[]){a, b}, env);
}

uint64_t fp_rsqrt_step(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    struct fp_number three = {FPTYPE_NORMAL, false, 1, 3ull << 62};
    return newton_step(size, three, -1, (const uint64_t[]){a, b}, env);
}
