/* Handlers that apply a floating-point operation to every lane of a register; a scalar is a
 * register of one lane. Decoding fills struct insn as simd.h says, and for each of them: */
#ifndef TA_FP_LANES_H
#define TA_FP_LANES_H

#include "simd.h"

enum { FP_CURRENT_ROUNDING = FP_TO_ODD + 1 }; /* where an enum fp_rounding may say "FPCR.RMode" */

/* More of insn.flags. */
enum fp_flags {
    FP_NEGATE_PRODUCT = 16,
    FP_NEGATE_ADDEND = 32,
};

/* `unary`: the operation. */
insn_handler run_fp_unary;
/* `binary`: the operation. */
insn_handler run_fp_binary, run_fp_pairwise;
/* Of lanes 0 and 1 of rn; `binary`: the operation. */
/* `binary`: the operation; `shift`: how many lanes. */
insn_handler run_fp_across;
/* `ra`: the register of the addend; `flags`: what is negated. */
insn_handler run_fp_multiply_add;
/* `ra`: the rounding; `imm`: whether it reports that it was inexact. */
insn_handler run_fp_round_int;
/* `ra`: the rounding; `shift`: bits of fraction; `imm`: whether integers are unsigned. */
insn_handler run_fp_to_fixed, run_fixed_to_fp;
/* `size` and `shift`: the sizes before and after; `ra`: the rounding; `imm`: how many lanes. */
insn_handler run_fp_convert;

/* The handler of an operation in a format: one of the above, or one of fp_fast.c. */
insn_handler *handler_of_unary(fp_unary *operation, enum fp_size size);
insn_handler *handler_of_binary(fp_binary *operation, enum fp_size size);
insn_handler *handler_of_multiply_add(enum fp_size size);

static inline struct fp_env fp_env_of(const struct vcpu *cpu)
{
    return (struct fp_env){cpu->fpcr, cpu->fpsr};
}

/* The lane size that bits 23:22 of scalar instructions stand for; 0: none. */
static inline uint8_t fp_size_of(uint32_t ptype)
{
    static const uint8_t sizes[4] = {FP_SINGLE, FP_DOUBLE, 0, FP_HALF};
    return sizes[ptype & 3];
}

static inline enum fp_rounding rounding_of(const struct vcpu *cpu, const struct insn *insn)
{
    unsigned current = cpu->fpcr >> FPCR_RMODE_SHIFT & 3;
    return (enum fp_rounding)(insn->ra == FP_CURRENT_ROUNDING ? current : insn->ra);
}

#endif
