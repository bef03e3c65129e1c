/* Floating point by integers alone (DDI 0487 J1.3, shared/functions/float), so that results and
 * flags are the same on every host, to the bit.
 *
 * A value is its encoding in the low bits of a uint64_t, with zeros above. An operation is written
 * once, for all three formats: it unpacks its operands, works on sign, exponent and significand,
 * and rounds. The functions bear the manual's names in lower case (FPMulAdd is fp_mul_add).
 *
 *   softfloat.c             unpacking, rounding, NaNs
 *   softfloat_arithmetic.c  add to square root, fused steps
 *   softfloat_compare.c     comparisons, minimum and maximum
 *   softfloat_convert.c     between formats, to and from integers and fixed point
 *   softfloat_estimate.c    the estimates of reciprocals
 */
#ifndef TA_SOFTFLOAT_H
#define TA_SOFTFLOAT_H

#include <stdbool.h>
#include <stdint.h>

enum fp_size { FP_HALF = 1, FP_SINGLE = 2, FP_DOUBLE = 3 }; /* log2 of the bytes */

/* The first four are what FPCR.RMode says. */
enum fp_rounding {
    FP_TIE_EVEN,
    FP_PLUS_INFINITY,
    FP_MINUS_INFINITY,
    FP_TOWARDS_ZERO,
    FP_TIE_AWAY,
    FP_TO_ODD,
};

#define FPCR_FZ16 (1u << 19)
#define FPCR_RMODE_SHIFT 22
#define FPCR_FZ (1u << 24)
#define FPCR_DN (1u << 25)
#define FPCR_AHP (1u << 26)
#define FPSR_IOC (1u << 0)
#define FPSR_DZC (1u << 1)
#define FPSR_OFC (1u << 2)
#define FPSR_UFC (1u << 3)
#define FPSR_IXC (1u << 4)
#define FPSR_IDC (1u << 7)

/* What an operation reads, and where it adds its cumulative flags. */
struct fp_env {
    uint32_t fpcr, fpsr;
};

struct fp_format {
    uint8_t bits, exponent_bits, fraction_bits;
    int32_t bias;
    uint64_t sign, infinity, quiet; /* the sign bit, +infinity, the bit that a quiet NaN has */
};

extern const struct fp_format fp_formats[4]; /* by enum fp_size */

typedef uint64_t fp_unary(enum fp_size size, uint64_t a, struct fp_env *env);
typedef uint64_t fp_binary(enum fp_size size, uint64_t a, uint64_t b, struct fp_env *env);

static inline enum fp_rounding fp_rounding_of(const struct fp_env *env)
{
    return (enum fp_rounding)(env->fpcr >> FPCR_RMODE_SHIFT & 3);
}

fp_binary fp_add, fp_sub, fp_mul, fp_neg_mul, fp_mul_x, fp_div, fp_abd;
fp_binary fp_recip_step, fp_rsqrt_step;
fp_unary fp_sqrt, fp_abs, fp_neg;
uint64_t fp_mul_add(enum fp_size size, uint64_t addend, uint64_t a, uint64_t b,
                    struct fp_env *env);

fp_binary fp_max, fp_min, fp_max_num, fp_min_num;
/* All ones if the comparison holds, else zero. */
fp_binary fp_compare_eq, fp_compare_ge, fp_compare_gt, fp_compare_abs_ge, fp_compare_abs_gt;
fp_unary fp_compare_eq_zero, fp_compare_ge_zero, fp_compare_gt_zero, fp_compare_le_zero,
    fp_compare_lt_zero;
/* NZCV, in bits 31:28. */
uint32_t fp_compare(enum fp_size size, uint64_t a, uint64_t b, bool signal_nans,
                    struct fp_env *env);

uint64_t fp_convert(enum fp_size from, enum fp_size to, uint64_t value,
                    enum fp_rounding rounding, struct fp_env *env);
uint64_t fp_round_int(enum fp_size size, uint64_t value, enum fp_rounding rounding, bool exact,
                      struct fp_env *env);

/* An integer or fixed-point number of `width` bits, of which `fraction_bits` are fraction. */
struct fixed_format {
    uint8_t width, fraction_bits;
    bool is_unsigned;
};
uint64_t fp_to_fixed(enum fp_size size, uint64_t value, struct fixed_format to,
                     enum fp_rounding rounding, struct fp_env *env);
uint64_t fixed_to_fp(enum fp_size size, uint64_t value, struct fixed_format from,
                     struct fp_env *env);

fp_unary fp_recip_estimate, fp_rsqrt_estimate, fp_recp_x;
uint32_t unsigned_recip_estimate(uint32_t value);
uint32_t unsigned_rsqrt_estimate(uint32_t value);

/* --- for the softfloat files ------------------------------------------------------------- */

enum fp_type { FPTYPE_ZERO, FPTYPE_NORMAL, FPTYPE_INFINITY, FPTYPE_NAN }; /* in the order of magnitude */

/* Normal: significand * 2^(exponent - 63), bit 63 of the significand set. Denormal numbers are
 * unpacked to that, too. NaN: the significand is the fraction, at the top. */
struct fp_number {
    enum fp_type type;
    bool sign;
    int32_t exponent;
    uint64_t significand;
};

struct fp_number fp_unpack(enum fp_size size, uint64_t value, struct fp_env *env);
struct fp_number fp_unpack_convert(enum fp_size size, uint64_t value, struct fp_env *env);
/* Rounds a normal number; bit 0 of the significand also stands for all that is below it. */
uint64_t fp_round(enum fp_size size, struct fp_number number, struct fp_env *env);
uint64_t fp_round_convert(enum fp_size size, struct fp_number number,
                          enum fp_rounding rounding, struct fp_env *env);
bool fp_rounds_up(enum fp_rounding rounding, bool sign, uint64_t integer, uint64_t rest);

bool fp_is_nan(enum fp_size size, uint64_t value);
bool fp_is_signalling(enum fp_size size, uint64_t value);
/* FPProcessNaNs(), FPProcessNaNs3(): at least one of the operands is a NaN. */
uint64_t fp_process_nans(enum fp_size size, const uint64_t *operands, unsigned count,
                         struct fp_env *env);
uint64_t fp_default_nan(enum fp_size size);
uint64_t fp_invalid(enum fp_size size, struct fp_env *env); /* default NaN, and sets IOC */

static inline uint64_t fp_signed(enum fp_size size, bool sign, uint64_t magnitude)
{
    return sign ? magnitude | fp_formats[size].sign : magnitude;
}
static inline uint64_t fp_signed_infinity(enum fp_size size, bool sign)
{
    return fp_signed(size, sign, fp_formats[size].infinity);
}
static inline uint64_t fp_signed_zero(enum fp_size size, bool sign)
{
    return fp_signed(size, sign, 0);
}
/* The sign of a sum that is zero although its operands are not both zeros of that sign. */
static inline uint64_t fp_cancelled(enum fp_size size, const struct fp_env *env)
{
    return fp_signed_zero(size, fp_rounding_of(env) == FP_MINUS_INFINITY);
}

#endif
