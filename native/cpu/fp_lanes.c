/* Floating-point operations on the lanes of registers. */
#include "fp_lanes.h"

static unsigned lanes_of(const struct insn *insn)
{
    return (unsigned)insn->amount >> insn->size;
}

static void finish(struct vcpu *cpu, const struct insn *insn, const struct vector *result,
                   const struct fp_env *env)
{
    write_vector(cpu, insn->rd, result, insn->amount);
    cpu->fpsr = env->fpsr;
}

void run_fp_unary(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    struct vector result = {0};
    for (unsigned i = 0; i < lanes_of(insn); i++)
        set_lane(&result, size, i, insn->unary(size, get_lane(&cpu->v[insn->rn], size, i), &env));
    finish(cpu, insn, &result, &env);
}

void run_fp_binary(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    const struct vector *a = &cpu->v[insn->rn];
    struct vector b = second_operand(cpu, insn, size), result = {0};
    for (unsigned i = 0; i < lanes_of(insn); i++)
        set_lane(&result, size, i,
                 insn->binary(size, get_lane(a, size, i), get_lane(&b, size, i), &env));
    finish(cpu, insn, &result, &env);
}

void run_fp_multiply_add(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    uint64_t sign = fp_formats[size].sign;
    uint64_t product_sign = insn->flags & FP_NEGATE_PRODUCT ? sign : 0;
    uint64_t addend_sign = insn->flags & FP_NEGATE_ADDEND ? sign : 0;
    struct vector b = second_operand(cpu, insn, size), result = {0};
    for (unsigned i = 0; i < lanes_of(insn); i++) {
        uint64_t addend = get_lane(&cpu->v[insn->ra], size, i) ^ addend_sign;
        uint64_t a = get_lane(&cpu->v[insn->rn], size, i) ^ product_sign;
        set_lane(&result, size, i, fp_mul_add(size, addend, a, get_lane(&b, size, i), &env));
    }
    finish(cpu, insn, &result, &env);
}

/* --- pairs and reductions -------------------------------------------------------------------- */

/* Lane i of the result is made of lanes 2i and 2i + 1 of the first operand, then of the second. */
void run_fp_pairwise(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    unsigned half = lanes_of(insn) / 2;
    struct vector result = {0};
    for (unsigned i = 0; i < 2 * half; i++) {
        const struct vector *source = &cpu->v[i < half ? insn->rn : insn->rm];
        unsigned first = 2 * (i % half);
        set_lane(&result, size, i,
                 insn->binary(size, get_lane(source, size, first),
                              get_lane(source, size, first + 1), &env));
    }
    finish(cpu, insn, &result, &env);
}

/* Reduce() of insn->shift lanes, two for the scalar pairwise operations: neighbours first, which
 * decides between NaNs. */
void run_fp_across(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    struct vector lanes = cpu->v[insn->rn];
    for (unsigned count = insn->shift / 2; count; count /= 2)
        for (unsigned i = 0; i < count; i++)
            set_lane(&lanes, size, i,
                     insn->binary(size, get_lane(&lanes, size, 2 * i),
                                  get_lane(&lanes, size, 2 * i + 1), &env));
    finish(cpu, insn, &lanes, &env);
}

/* --- conversions ------------------------------------------------------------------------------- */

void run_fp_round_int(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    enum fp_rounding rounding = rounding_of(cpu, insn);
    struct vector result = {0};
    for (unsigned i = 0; i < lanes_of(insn); i++) {
        uint64_t lane = get_lane(&cpu->v[insn->rn], size, i);
        set_lane(&result, size, i, fp_round_int(size, lane, rounding, insn->imm, &env));
    }
    finish(cpu, insn, &result, &env);
}

static struct fixed_format lane_format(const struct insn *insn)
{
    return (struct fixed_format){fp_formats[insn->size].bits, insn->shift, insn->imm};
}

void run_fp_to_fixed(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    enum fp_rounding rounding = rounding_of(cpu, insn);
    struct vector result = {0};
    for (unsigned i = 0; i < lanes_of(insn); i++) {
        uint64_t lane = get_lane(&cpu->v[insn->rn], size, i);
        set_lane(&result, size, i, fp_to_fixed(size, lane, lane_format(insn), rounding, &env));
    }
    finish(cpu, insn, &result, &env);
}

void run_fixed_to_fp(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    struct vector result = {0};
    for (unsigned i = 0; i < lanes_of(insn); i++) {
        uint64_t lane = get_lane(&cpu->v[insn->rn], size, i);
        set_lane(&result, size, i, fixed_to_fp(size, lane, lane_format(insn), &env));
    }
    finish(cpu, insn, &result, &env);
}

/* FCVT, FCVTL, FCVTN, FCVTXN. SIMD_UPPER: FCVTL2 reads the upper half, FCVTN2 writes it and leaves
 * the lower one. */
void run_fp_convert(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    enum fp_size from = insn->size, to = insn->shift;
    enum fp_rounding rounding = rounding_of(cpu, insn);
    bool upper = insn->flags & SIMD_UPPER, widens = to > from;
    unsigned lanes = (unsigned)insn->imm, first = upper && widens ? lanes : 0;
    struct vector result = {0};
    for (unsigned i = 0; i < lanes; i++) {
        uint64_t lane = get_lane(&cpu->v[insn->rn], from, first + i);
        set_lane(&result, to, i, fp_convert(from, to, lane, rounding, &env));
    }
    if (upper && !widens) {
        result.u64[1] = result.u64[0];
        result.u64[0] = cpu->v[insn->rd].u64[0];
    }
    finish(cpu, insn, &result, &env);
}
