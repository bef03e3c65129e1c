/* The common case of floating point through the host's FPU: handlers that replace those of fp_lanes.c
 * for single and double precision and go back to them in every other case.
 *
 * Every FPU of today rounds a sum, a product, a quotient and a root to nearest as IEEE 754 says, to
 * the bit; they differ in NaNs, in denormal numbers and in how they report. So the host computes only
 * if FPCR says round to nearest, all operands are normal, and the result is normal and not the
 * smallest such number (which could be rounded up from a tiny one). Then the only flag that there can
 * be is "inexact", and the host need not be asked for it if FPSR.IXC is set already, as it is from the
 * first inexact operation of a program on. What is assumed of the host is the rounding mode that every
 * C program starts with; whether it flushes denormal numbers does not matter. */
#include "fp_lanes.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#pragma STDC FP_CONTRACT OFF

/* True if the exponent is one of `count` from `first` on; `mask` takes the sign away. */
#define IS_WITHIN(bits, first, count, fraction_bits, mask)                                    \
    (((bits) & (mask)) - ((first) << (fraction_bits)) < ((count) << (fraction_bits)))

static inline bool is_normal_double(uint64_t bits)
{
    return IS_WITHIN(bits, 1ull, 2046ull, 52, ~0ull >> 1);
}
static inline bool is_safe_double(uint64_t bits)
{
    return IS_WITHIN(bits, 2ull, 2045ull, 52, ~0ull >> 1);
}
static inline bool is_normal_single(uint32_t bits)
{
    return IS_WITHIN(bits, 1u, 254u, 23, ~0u >> 1);
}
static inline bool is_safe_single(uint32_t bits)
{
    return IS_WITHIN(bits, 2u, 253u, 23, ~0u >> 1);
}

static inline double as_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline uint64_t bits_of_double(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}
static inline float as_single(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline uint32_t bits_of_single(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* The trap comes first, as in all handlers; the slow one takes it. */
static inline bool host_computes(const struct vcpu *cpu)
{
    bool to_nearest = !(cpu->fpcr & 3u << FPCR_RMODE_SHIFT);
    return likely(fp_is_untrapped(cpu) && to_nearest && cpu->fpsr & FPSR_IXC);
}

/* A handler of `slow`'s instructions. `compute` returns false if it is not the common case. */
#define HANDLER(name, slow, size_shift, compute)                                              \
    static void name(struct vcpu *cpu, const struct insn *insn)                               \
    {                                                                                         \
        struct vector result = {0};                                                           \
        bool done = host_computes(cpu);                                                       \
        struct vector b = second_operand(cpu, insn, size_shift);                              \
        (void)b; /* a root has one operand */                                                 \
        for (unsigned i = 0; done && i < insn->amount >> size_shift; i++)                     \
            done = compute;                                                                   \
        if (likely(done))                                                                     \
            write_vector(cpu, insn->rd, &result, insn->amount);                               \
        else                                                                                  \
            slow(cpu, insn);                                                                  \
    }

#define BINARY(name, operator)                                                                \
    static inline bool name##_double(uint64_t a, uint64_t b, uint64_t *result)                \
    {                                                                                         \
        *result = bits_of_double(as_double(a) operator as_double(b));                         \
        return is_normal_double(a) && is_normal_double(b) && is_safe_double(*result);         \
    }                                                                                         \
    static inline bool name##_single(uint32_t a, uint32_t b, uint32_t *result)                \
    {                                                                                         \
        *result = bits_of_single(as_single(a) operator as_single(b));                         \
        return is_normal_single(a) && is_normal_single(b) && is_safe_single(*result);         \
    }                                                                                         \
    HANDLER(run_##name##_double, run_fp_binary, FP_DOUBLE,                                    \
            name##_double(cpu->v[insn->rn].u64[i], b.u64[i], &result.u64[i]))                 \
    HANDLER(run_##name##_single, run_fp_binary, FP_SINGLE,                                    \
            name##_single(cpu->v[insn->rn].u32[i], b.u32[i], &result.u32[i]))

BINARY(add, +)
BINARY(subtract, -)
BINARY(multiply, *)
BINARY(divide, /)

#define ROOT(name, type, lanes, size_shift, from_bits, to_bits, is_normal, is_positive)       \
    static inline bool root_##name(type a, type *result)                                      \
    {                                                                                         \
        *result = to_bits(__builtin_elementwise_sqrt(from_bits(a)));                          \
        return is_normal(a) && is_positive;                                                   \
    }                                                                                         \
    HANDLER(run_root_##name, run_fp_unary, size_shift,                                        \
            root_##name(cpu->v[insn->rn].lanes[i], &result.lanes[i]))

ROOT(double, uint64_t, u64, FP_DOUBLE, as_double, bits_of_double, is_normal_double, !(a >> 63))
ROOT(single, uint32_t, u32, FP_SINGLE, as_single, bits_of_single, is_normal_single, !(a >> 31))

/* In double precision the product of two singles is exact. The sum is rounded there, and then again
 * to single. That is as if it were rounded once, unless the first result lies halfway between two
 * singles: then nothing tells any more on which side of it the exact sum was. */
static inline bool fuse_single(uint32_t addend, uint32_t a, uint32_t b, uint32_t *result)
{
    double sum = (double)as_single(a) * (double)as_single(b) + (double)as_single(addend);
    bool is_halfway = (bits_of_double(sum) & 0x1fffffff) == 0x10000000;
    *result = bits_of_single((float)sum);
    return is_normal_single(a) && is_normal_single(b) && is_normal_single(addend) &&
           is_safe_single(*result) && !is_halfway;
}

static inline uint64_t sign_if(const struct insn *insn, unsigned flag, unsigned sign_bit)
{
    return insn->flags & flag ? 1ull << sign_bit : 0;
}

HANDLER(run_fuse_single, run_fp_multiply_add, FP_SINGLE,
        fuse_single(cpu->v[insn->ra].u32[i] ^ (uint32_t)sign_if(insn, FP_NEGATE_ADDEND, 31),
                    cpu->v[insn->rn].u32[i] ^ (uint32_t)sign_if(insn, FP_NEGATE_PRODUCT, 31),
                    b.u32[i], &result.u32[i]))

/* Doubles need an FPU that fuses. On x86-64 that is an extension; where it is missing, integers are
 * faster than what the C library does instead. */
#if defined(__x86_64__)
#define FUSES __attribute__((target("fma")))

static bool find_host_fuses(void)
{
    const unsigned fma = 1u << 12, osxsave = 1u << 27, avx_state = 6;
    unsigned eax, ebx, ecx, edx, enabled, high;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & (fma | osxsave)) != (fma | osxsave))
        return false;
    __asm__("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
    return (enabled & avx_state) == avx_state;
}

static bool host_fuses(void)
{
    static int known; /* 0: not yet; accessed atomically */
    int found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!found) {
        found = find_host_fuses() ? 1 : -1;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return found > 0;
}
#else
#define FUSES
static bool host_fuses(void)
{
    return true;
}
#endif

FUSES static bool fuse_double(uint64_t addend, uint64_t a, uint64_t b, uint64_t *result)
{
    *result = bits_of_double(__builtin_fma(as_double(a), as_double(b), as_double(addend)));
    return is_normal_double(a) && is_normal_double(b) && is_normal_double(addend) &&
           is_safe_double(*result);
}

HANDLER(run_fuse_double, run_fp_multiply_add, FP_DOUBLE,
        fuse_double(cpu->v[insn->ra].u64[i] ^ sign_if(insn, FP_NEGATE_ADDEND, 63),
                    cpu->v[insn->rn].u64[i] ^ sign_if(insn, FP_NEGATE_PRODUCT, 63), b.u64[i],
                    &result.u64[i]))

/* --- which handler an instruction gets ------------------------------------------------------- */

insn_handler *handler_of_binary(fp_binary *operation, enum fp_size size)
{
    static const struct {
        fp_binary *operation;
        insn_handler *for_single, *for_double;
    } fast[] = {
        {fp_add, run_add_single, run_add_double},
        {fp_sub, run_subtract_single, run_subtract_double},
        {fp_mul, run_multiply_single, run_multiply_double},
        {fp_div, run_divide_single, run_divide_double},
    };
    for (unsigned i = 0; size != FP_HALF && i < sizeof fast / sizeof fast[0]; i++)
        if (fast[i].operation == operation)
            return size == FP_SINGLE ? fast[i].for_single : fast[i].for_double;
    return run_fp_binary;
}

insn_handler *handler_of_unary(fp_unary *operation, enum fp_size size)
{
    if (operation != fp_sqrt || size == FP_HALF)
        return run_fp_unary;
    return size == FP_SINGLE ? run_root_single : run_root_double;
}

insn_handler *handler_of_multiply_add(enum fp_size size)
{
    if (size == FP_SINGLE)
        return run_fuse_single;
    return size == FP_DOUBLE && host_fuses() ? run_fuse_double : run_fp_multiply_add;
}
