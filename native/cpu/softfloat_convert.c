/* Conversions: between formats, to integral values, to and from integers and fixed point
 * (shared/functions/float). */
#include "softfloat.h"

static uint64_t low_bits(uint64_t value, unsigned width)
{
    return value & ~0ull >> (64 - width);
}

/* --- between formats ------------------------------------------------------------------------- */

/* FPConvertNaN(): the payload stays at the top of the fraction. */
static uint64_t convert_nan(enum fp_size to, struct fp_number nan, const struct fp_env *env)
{
    if (env->fpcr & FPCR_DN)
        return fp_default_nan(to);
    uint64_t payload = nan.significand >> (64 - fp_formats[to].fraction_bits);
    return fp_signed(to, nan.sign, fp_default_nan(to) | payload);
}

/* The alternative half-precision format has neither NaNs nor infinities. */
static uint64_t convert_to_alternative(struct fp_number number, struct fp_env *env)
{
    env->fpsr |= FPSR_IOC;
    uint64_t largest = fp_formats[FP_HALF].sign - 1;
    return fp_signed(FP_HALF, number.sign, number.type == FPTYPE_INFINITY ? largest : 0);
}

uint64_t fp_convert(enum fp_size from, enum fp_size to, uint64_t value,
                    enum fp_rounding rounding, struct fp_env *env)
{
    struct fp_number number = fp_unpack_convert(from, value, env);
    bool is_special = number.type == FPTYPE_NAN || number.type == FPTYPE_INFINITY;
    if (is_special && to == FP_HALF && env->fpcr & FPCR_AHP)
        return convert_to_alternative(number, env);
    switch (number.type) {
    case FPTYPE_NAN:
        if (fp_is_signalling(from, value))
            env->fpsr |= FPSR_IOC;
        return convert_nan(to, number, env);
    case FPTYPE_INFINITY:
        return fp_signed_infinity(to, number.sign);
    case FPTYPE_ZERO:
        return fp_signed_zero(to, number.sign);
    default:
        return fp_round_convert(to, number, rounding, env);
    }
}

/* --- to integers and fixed point ------------------------------------------------------------- */

/* A magnitude: the integer and, as a fraction of 2^64, what is below it. Bit 0 of the rest also
 * stands for all that is below the rest. */
struct magnitude {
    uint64_t integer, rest;
    bool too_large; /* 2^64 or more */
};

/* The magnitude of a normal number times 2^fraction_bits. */
static struct magnitude magnitude_of(struct fp_number number, int32_t fraction_bits)
{
    int32_t shift = 63 - number.exponent - fraction_bits;
    uint64_t significand = number.significand;
    if (shift < 0)
        return (struct magnitude){0, 0, true};
    if (shift == 0)
        return (struct magnitude){significand, 0, false};
    if (shift < 64)
        return (struct magnitude){significand >> shift, significand << (64 - shift), false};
    return (struct magnitude){0, shift == 64 ? significand : 1, false};
}

static struct magnitude round_magnitude(struct magnitude magnitude, bool sign,
                                        enum fp_rounding rounding)
{
    if (fp_rounds_up(rounding, sign, magnitude.integer, magnitude.rest) &&
        ++magnitude.integer == 0)
        magnitude.too_large = true;
    return magnitude;
}

/* The largest magnitude that a number of this sign can have. */
static uint64_t limit_of(struct fixed_format to, bool sign)
{
    if (to.is_unsigned)
        return sign ? 0 : ~0ull >> (64 - to.width);
    return (1ull << (to.width - 1)) - !sign;
}

/* FPToFixed() */
uint64_t fp_to_fixed(enum fp_size size, uint64_t value, struct fixed_format to,
                     enum fp_rounding rounding, struct fp_env *env)
{
    struct fp_number number = fp_unpack(size, value, env);
    struct magnitude result = {0, 0, number.type == FPTYPE_INFINITY};
    if (number.type == FPTYPE_NORMAL)
        result = round_magnitude(magnitude_of(number, to.fraction_bits), number.sign, rounding);
    uint64_t limit = limit_of(to, number.sign);
    if (number.type == FPTYPE_NAN) {
        env->fpsr |= FPSR_IOC;
    } else if (result.too_large || result.integer > limit) {
        env->fpsr |= FPSR_IOC;
        result.integer = limit;
    } else if (result.rest) {
        env->fpsr |= FPSR_IXC;
    }
    return low_bits(number.sign ? 0 - result.integer : result.integer, to.width);
}

static uint64_t pack_integer(enum fp_size size, uint64_t integer, bool sign,
                             int32_t fraction_bits, struct fp_env *env)
{
    int32_t shift = __builtin_clzll(integer);
    struct fp_number number = {FPTYPE_NORMAL, sign, 63 - shift - fraction_bits, integer << shift};
    return fp_round(size, number, env);
}

/* FixedToFP() */
uint64_t fixed_to_fp(enum fp_size size, uint64_t value, struct fixed_format from,
                     struct fp_env *env)
{
    value = low_bits(value, from.width);
    bool sign = !from.is_unsigned && value >> (from.width - 1);
    if (!value)
        return fp_signed_zero(size, false);
    uint64_t magnitude = sign ? low_bits(0 - value, from.width) : value;
    return pack_integer(size, magnitude, sign, from.fraction_bits, env);
}

/* FPRoundInt(): a value that rounds to zero keeps its sign. */
uint64_t fp_round_int(enum fp_size size, uint64_t value, enum fp_rounding rounding, bool exact,
                      struct fp_env *env)
{
    struct fp_number number = fp_unpack(size, value, env);
    if (number.type == FPTYPE_NAN)
        return fp_process_nans(size, &value, 1, env);
    if (number.type == FPTYPE_ZERO)
        return fp_signed_zero(size, number.sign);
    if (number.type == FPTYPE_INFINITY || number.exponent >= fp_formats[size].fraction_bits)
        return value;
    struct magnitude result = round_magnitude(magnitude_of(number, 0), number.sign, rounding);
    if (result.rest && exact)
        env->fpsr |= FPSR_IXC;
    if (!result.integer)
        return fp_signed_zero(size, number.sign);
    return pack_integer(size, result.integer, number.sign, 0, env);
}
