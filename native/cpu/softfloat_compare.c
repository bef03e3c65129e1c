/* Comparisons, minimum and maximum (shared/functions/float). */
#include "softfloat.h"

enum order { LESS = -1, EQUAL = 0, GREATER = 1, UNORDERED = 2 };

static enum order order_of_magnitudes(struct fp_number a, struct fp_number b)
{
    if (a.type != b.type)
        return a.type < b.type ? LESS : GREATER;
    if (a.type != FPTYPE_NORMAL)
        return EQUAL;
    if (a.exponent != b.exponent)
        return a.exponent < b.exponent ? LESS : GREATER;
    if (a.significand != b.significand)
        return a.significand < b.significand ? LESS : GREATER;
    return EQUAL;
}

/* Neither is a NaN. */
static enum order order_of_numbers(struct fp_number a, struct fp_number b)
{
    if (a.type == FPTYPE_ZERO && b.type == FPTYPE_ZERO)
        return EQUAL;
    if (a.sign != b.sign)
        return a.sign ? LESS : GREATER;
    return a.sign ? order_of_magnitudes(b, a) : order_of_magnitudes(a, b);
}

/* A quiet NaN is an invalid operation only for comparisons that signal. */
static enum order order_of(enum fp_size size, uint64_t a_value, uint64_t b_value, bool signal_nans,
                           struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (a.type != FPTYPE_NAN && b.type != FPTYPE_NAN)
        return order_of_numbers(a, b);
    if (signal_nans || fp_is_signalling(size, a_value) || fp_is_signalling(size, b_value))
        env->fpsr |= FPSR_IOC;
    return UNORDERED;
}

uint32_t fp_compare(enum fp_size size, uint64_t a, uint64_t b, bool signal_nans,
                    struct fp_env *env)
{
    switch (order_of(size, a, b, signal_nans, env)) {
    case LESS:
        return 0x80000000u;
    case EQUAL:
        return 0x60000000u;
    case GREATER:
        return 0x20000000u;
    default:
        return 0x30000000u;
    }
}

static uint64_t mask_of(enum fp_size size, bool holds)
{
    return holds ? ~0ull >> (64 - fp_formats[size].bits) : 0;
}

uint64_t fp_compare_eq(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return mask_of(size, order_of(size, a, b, false, env) == EQUAL);
}

uint64_t fp_compare_ge(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    enum order order = order_of(size, a, b, true, env);
    return mask_of(size, order == GREATER || order == EQUAL);
}

uint64_t fp_compare_gt(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return mask_of(size, order_of(size, a, b, true, env) == GREATER);
}

uint64_t fp_compare_abs_ge(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return fp_compare_ge(size, fp_abs(size, a, env), fp_abs(size, b, env), env);
}

uint64_t fp_compare_abs_gt(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return fp_compare_gt(size, fp_abs(size, a, env), fp_abs(size, b, env), env);
}

uint64_t fp_compare_eq_zero(enum fp_size size, uint64_t a, struct fp_env *env)
{
    return fp_compare_eq(size, a, 0, env);
}

uint64_t fp_compare_ge_zero(enum fp_size size, uint64_t a, struct fp_env *env)
{
    return fp_compare_ge(size, a, 0, env);
}

uint64_t fp_compare_gt_zero(enum fp_size size, uint64_t a, struct fp_env *env)
{
    return fp_compare_gt(size, a, 0, env);
}

uint64_t fp_compare_le_zero(enum fp_size size, uint64_t a, struct fp_env *env)
{
    return fp_compare_ge(size, 0, a, env);
}

uint64_t fp_compare_lt_zero(enum fp_size size, uint64_t a, struct fp_env *env)
{
    return fp_compare_gt(size, 0, a, env);
}

/* --- minimum and maximum ----------------------------------------------------------------------- */

/* `wanted`: GREATER for the maximum. Of two zeros the maximum is the positive one. */
static uint64_t extreme(enum fp_size size, uint64_t a_value, uint64_t b_value, enum order wanted,
                        struct fp_env *env)
{
    struct fp_number a = fp_unpack(size, a_value, env), b = fp_unpack(size, b_value, env);
    if (a.type == FPTYPE_NAN || b.type == FPTYPE_NAN)
        return fp_process_nans(size, (const uint64_t[]){a_value, b_value}, 2, env);
    struct fp_number chosen = order_of_numbers(a, b) == wanted ? a : b;
    if (chosen.type == FPTYPE_INFINITY)
        return fp_signed_infinity(size, chosen.sign);
    if (chosen.type == FPTYPE_ZERO)
        return fp_signed_zero(size, wanted == GREATER ? a.sign && b.sign : a.sign || b.sign);
    return fp_round(size, chosen, env);
}

uint64_t fp_max(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return extreme(size, a, b, GREATER, env);
}

uint64_t fp_min(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return extreme(size, a, b, LESS, env);
}

/* FPMaxNum(), FPMinNum(): a single quiet NaN is as if it were the infinity that never wins. */
static uint64_t extreme_number(enum fp_size size, uint64_t a, uint64_t b, enum order wanted,
                               struct fp_env *env)
{
    bool a_is_quiet = fp_is_nan(size, a) && !fp_is_signalling(size, a);
    bool b_is_quiet = fp_is_nan(size, b) && !fp_is_signalling(size, b);
    uint64_t loser = fp_signed_infinity(size, wanted == GREATER);
    if (a_is_quiet != b_is_quiet)
        return extreme(size, a_is_quiet ? loser : a, b_is_quiet ? loser : b, wanted, env);
    return extreme(size, a, b, wanted, env);
}

uint64_t fp_max_num(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return extreme_number(size, a, b, GREATER, env);
}

uint64_t fp_min_num(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env)
{
    return extreme_number(size, a, b, LESS, env);
}
