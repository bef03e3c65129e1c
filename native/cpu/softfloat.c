/* Unpacking, rounding and NaNs: what all operations of softfloat.h stand on. */
#include "softfloat.h"

const struct fp_format fp_formats[4] = {
    [FP_HALF] = {16, 5, 10, 15, 1ull << 15, 0x7c00ull, 1ull << 9},
    [FP_SINGLE] = {32, 8, 23, 127, 1ull << 31, 0x7f800000ull, 1ull << 22},
    [FP_DOUBLE] = {64, 11, 52, 1023, 1ull << 63, 0x7ff0000000000000ull, 1ull << 51},
};

static bool flushes_to_zero(enum fp_size size, const struct fp_env *env)
{
    return env->fpcr & (size == FP_HALF ? FPCR_FZ16 : FPCR_FZ);
}

/* --- FPUnpackBase() ----------------------------------------------------------------------- */

static struct fp_number unpack_denormal(enum fp_size size, bool sign, uint64_t fraction)
{
    int32_t shift = __builtin_clzll(fraction);
    return (struct fp_number){FPTYPE_NORMAL, sign, -fp_formats[size].bias - shift, fraction << shift};
}

/* Only FZ, not FZ16, reports the input that it flushes. */
static struct fp_number unpack_tiny(enum fp_size size, bool sign, uint64_t fraction, bool flush,
                                    struct fp_env *env)
{
    if (fraction && !flush)
        return unpack_denormal(size, sign, fraction);
    if (fraction && size != FP_HALF)
        env->fpsr |= FPSR_IDC;
    return (struct fp_number){.type = FPTYPE_ZERO, .sign = sign};
}

/* `alternative`: the half-precision format without infinities and NaNs. */
static struct fp_number unpack(enum fp_size size, uint64_t value, bool flush, bool alternative,
                               struct fp_env *env)
{
    const struct fp_format *format = &fp_formats[size];
    int32_t largest = (1 << format->exponent_bits) - 1;
    int32_t exponent = (int32_t)(value >> format->fraction_bits) & largest;
    uint64_t fraction = value << (64 - format->fraction_bits);
    bool sign = value & format->sign;
    if (exponent == 0)
        return unpack_tiny(size, sign, fraction, flush, env);
    if (exponent == largest && !alternative)
        return (struct fp_number){fraction ? FPTYPE_NAN : FPTYPE_INFINITY, sign, 0, fraction};
    return (struct fp_number){FPTYPE_NORMAL, sign, exponent - format->bias,
                              1ull << 63 | fraction >> 1};
}

struct fp_number fp_unpack(enum fp_size size, uint64_t value, struct fp_env *env)
{
    return unpack(size, value, flushes_to_zero(size, env), false, env);
}

/* FPUnpackCV(): a conversion does not look at FZ16, but at AHP. */
struct fp_number fp_unpack_convert(enum fp_size size, uint64_t value, struct fp_env *env)
{
    bool is_half = size == FP_HALF;
    return unpack(size, value, !is_half && flushes_to_zero(size, env),
                  is_half && env->fpcr & FPCR_AHP, env);
}

/* --- FPRoundBase() ------------------------------------------------------------------------ */

/* `rest` is what is below the integer, as a fraction of 2^64. */
bool fp_rounds_up(enum fp_rounding rounding, bool sign, uint64_t integer, uint64_t rest)
{
    const uint64_t half = 1ull << 63;
    switch (rounding) {
    case FP_TIE_EVEN:
        return rest > half || (rest == half && integer & 1);
    case FP_PLUS_INFINITY:
        return rest && !sign;
    case FP_MINUS_INFINITY:
        return rest && sign;
    case FP_TIE_AWAY:
        return rest >= half;
    default:
        return false;
    }
}

static uint64_t overflow(enum fp_size size, bool sign, enum fp_rounding rounding,
                         struct fp_env *env)
{
    bool to_infinity = rounding == FP_TIE_EVEN || rounding == FP_TIE_AWAY ||
                       rounding == (sign ? FP_MINUS_INFINITY : FP_PLUS_INFINITY);
    env->fpsr |= FPSR_OFC | FPSR_IXC;
    return fp_signed(size, sign, fp_formats[size].infinity - !to_infinity);
}

static uint64_t overflow_alternative(bool sign, struct fp_env *env)
{
    env->fpsr |= FPSR_IOC;
    return fp_signed(FP_HALF, sign, fp_formats[FP_HALF].sign - 1);
}

static uint64_t shift_right_jam(uint64_t value, uint32_t count)
{
    if (!count)
        return value;
    return count < 64 ? value >> count | (value << (64 - count) != 0) : value != 0;
}

struct rounding_rules {
    enum fp_rounding mode;
    bool flush, alternative;
};

/* Tininess is detected before rounding (A1.5.5). */
static uint64_t round_number(enum fp_size size, struct fp_number number,
                             struct rounding_rules rules, struct fp_env *env)
{
    const struct fp_format *format = &fp_formats[size];
    int32_t biased = number.exponent + format->bias;
    int32_t largest = 1 << format->exponent_bits; /* more than what any number can have */
    bool tiny = biased < 1;
    if (tiny && rules.flush) {
        env->fpsr |= FPSR_UFC;
        return fp_signed_zero(size, number.sign);
    }
    if (tiny) {
        number.significand = shift_right_jam(number.significand, (uint32_t)(1 - biased));
        biased = 1;
    } else if (biased > largest) {
        biased = largest;
    }
    unsigned dropped = 63u - format->fraction_bits;
    uint64_t kept = number.significand >> dropped, rest = number.significand << (64 - dropped);
    kept += fp_rounds_up(rules.mode, number.sign, kept, rest);
    if (rules.mode == FP_TO_ODD)
        kept |= rest != 0;
    /* The integer bit of `kept`, or a carry beyond it, counts the exponent up. */
    uint64_t packed = ((uint64_t)(biased - 1) << format->fraction_bits) + kept;
    if (rules.alternative && packed >= format->sign)
        return overflow_alternative(number.sign, env);
    if (!rules.alternative && packed >= format->infinity)
        return overflow(size, number.sign, rules.mode, env);
    if (rest)
        env->fpsr |= tiny ? FPSR_UFC | FPSR_IXC : FPSR_IXC;
    return fp_signed(size, number.sign, packed);
}

uint64_t fp_round(enum fp_size size, struct fp_number number, struct fp_env *env)
{
    struct rounding_rules rules = {fp_rounding_of(env), flushes_to_zero(size, env), false};
    return round_number(size, number, rules, env);
}

/* FPRoundCV() */
uint64_t fp_round_convert(enum fp_size size, struct fp_number number,
                          enum fp_rounding rounding, struct fp_env *env)
{
    bool is_half = size == FP_HALF;
    struct rounding_rules rules = {rounding, !is_half && flushes_to_zero(size, env),
                                   is_half && env->fpcr & FPCR_AHP};
    return round_number(size, number, rules, env);
}

/* --- NaNs ----------------------------------------------------------------------------------- */

bool fp_is_nan(enum fp_size size, uint64_t value)
{
    return (value & ~fp_formats[size].sign) > fp_formats[size].infinity;
}

bool fp_is_signalling(enum fp_size size, uint64_t value)
{
    return fp_is_nan(size, value) && !(value & fp_formats[size].quiet);
}

uint64_t fp_default_nan(enum fp_size size)
{
    return fp_formats[size].infinity | fp_formats[size].quiet;
}

uint64_t fp_invalid(enum fp_size size, struct fp_env *env)
{
    env->fpsr |= FPSR_IOC;
    return fp_default_nan(size);
}

/* The first signalling NaN comes before the first quiet one. */
static uint64_t choose_nan(enum fp_size size, const uint64_t *operands, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (fp_is_signalling(size, operands[i]))
            return operands[i];
    for (unsigned i = 0; i + 1 < count; i++)
        if (fp_is_nan(size, operands[i]))
            return operands[i];
    return operands[count - 1];
}

uint64_t fp_process_nans(enum fp_size size, const uint64_t *operands, unsigned count,
                         struct fp_env *env)
{
    uint64_t nan = choose_nan(size, operands, count);
    if (fp_is_signalling(size, nan))
        env->fpsr |= FPSR_IOC;
    return env->fpcr & FPCR_DN ? fp_default_nan(size) : nan | fp_formats[size].quiet;
}
