/* Estimates of 1/x and 1/sqrt(x) to eight bits, as the manual defines them exactly
 * (shared/functions/float: RecipEstimate, RecipSqrtEstimate, FPRecipEstimate, ...). */
#include "softfloat.h"

/* `a`: 256 to 511, for 0.5 to 1; returns 256 to 511, for 1 to 2. */
static uint32_t recip_estimate(uint32_t a)
{
    a = a * 2 + 1;
    uint32_t b = (1u << 19) / a;
    return (b + 1) / 2;
}

/* `a`: 128 to 511, for 0.25 to 1; returns 256 to 511, for 1 to 2. */
static uint32_t rsqrt_estimate(uint32_t a)
{
    a = a < 256 ? a * 2 + 1 : ((a & ~1u) + 1) * 2;
    uint32_t b = 512;
    while (a * (b + 1) * (b + 1) < 1u << 28)
        b++;
    return (b + 1) / 2;
}

/* The fraction of an estimate (256 to 511), at the place where the format has it. */
static uint64_t fraction_of(enum fp_size size, uint32_t estimate)
{
    return (uint64_t)(estimate & 0xff) << (fp_formats[size].fraction_bits - 8);
}

static bool flushes_result(enum fp_size size, const struct fp_env *env)
{
    return env->fpcr & (size == FP_HALF ? FPCR_FZ16 : FPCR_FZ);
}

static uint64_t pack_recip(enum fp_size size, struct fp_number number)
{
    const struct fp_format *format = &fp_formats[size];
    int32_t exponent = format->bias - 1 - number.exponent; /* biased */
    uint64_t fraction = fraction_of(size, recip_estimate((uint32_t)(number.significand >> 55)));
    if (exponent <= 0) { /* the result is denormal, by one bit or by two */
        fraction = (1ull << format->fraction_bits | fraction) >> (1 - exponent);
        exponent = 0;
    }
    return fp_signed(size, number.sign,
                     (uint64_t)exponent << format->fraction_bits | fraction);
}

/* The reciprocal is above the largest number. */
static uint64_t overflow_recip(enum fp_size size, bool sign, struct fp_env *env)
{
    enum fp_rounding rounding = fp_rounding_of(env);
    bool to_infinity = rounding == FP_TIE_EVEN ||
                       rounding == (sign ? FP_MINUS_INFINITY : FP_PLUS_INFINITY);
    env->fpsr |= FPSR_OFC | FPSR_IXC;
    return fp_signed(size, sign, fp_formats[size].infinity - !to_infinity);
}

uint64_t fp_recip_estimate(enum fp_size size, uint64_t a, struct fp_env *env)
{
    struct fp_number number = fp_unpack(size, a, env);
    int32_t bias = fp_formats[size].bias;
    switch (number.type) {
    case FPTYPE_NAN:
        return fp_process_nans(size, &a, 1, env);
    case FPTYPE_INFINITY:
        return fp_signed_zero(size, number.sign);
    case FPTYPE_ZERO:
        env->fpsr |= FPSR_DZC;
        return fp_signed_infinity(size, number.sign);
    default:
        break;
    }
    if (number.exponent < -bias - 1)
        return overflow_recip(size, number.sign, env);
    if (number.exponent >= bias - 1 && flushes_result(size, env)) {
        env->fpsr |= FPSR_UFC;
        return fp_signed_zero(size, number.sign);
    }
    return pack_recip(size, number);
}

static uint64_t pack_rsqrt(enum fp_size size, struct fp_number number)
{
    const struct fp_format *format = &fp_formats[size];
    int32_t biased = number.exponent + format->bias;
    bool is_odd = biased & 1;
    uint32_t scaled = (uint32_t)(number.significand >> (is_odd ? 56 : 55));
    int32_t exponent = (3 * format->bias - 1 - biased) / 2;
    return (uint64_t)exponent << format->fraction_bits |
           fraction_of(size, rsqrt_estimate(scaled));
}

uint64_t fp_rsqrt_estimate(enum fp_size size, uint64_t a, struct fp_env *env)
{
    struct fp_number number = fp_unpack(size, a, env);
    if (number.type == FPTYPE_NAN)
        return fp_process_nans(size, &a, 1, env);
    if (number.type == FPTYPE_ZERO) {
        env->fpsr |= FPSR_DZC;
        return fp_signed_infinity(size, number.sign);
    }
    if (number.sign)
        return fp_invalid(size, env);
    return number.type == FPTYPE_INFINITY ? 0 : pack_rsqrt(size, number);
}

/* FPRecpX(): a power of two whose exponent is the complement. */
uint64_t fp_recp_x(enum fp_size size, uint64_t a, struct fp_env *env)
{
    const struct fp_format *format = &fp_formats[size];
    struct fp_number number = fp_unpack(size, a, env);
    if (number.type == FPTYPE_NAN)
        return fp_process_nans(size, &a, 1, env);
    uint64_t exponent = a & format->infinity;
    uint64_t unit = 1ull << format->fraction_bits;
    return fp_signed(size, number.sign,
                     exponent ? exponent ^ format->infinity : format->infinity - unit);
}

/* URECPE and URSQRTE: fractions of 2^32. */
uint32_t unsigned_recip_estimate(uint32_t value)
{
    return value >> 31 ? recip_estimate(value >> 23) << 23 : ~0u;
}

uint32_t unsigned_rsqrt_estimate(uint32_t value)
{
    return value >> 30 ? rsqrt_estimate(value >> 23) << 23 : ~0u;
}
