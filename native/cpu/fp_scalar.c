/* Scalar floating point (DDI 0487 C4.1, "Scalar Floating-Point and Advanced SIMD"): what has 0x1E
 * or 0x1F in bits 28:24 and not bit 30. */
#include "fp_lanes.h"

static void set_scalar(struct vcpu *cpu, const struct insn *insn, uint64_t value)
{
    cpu->v[insn->rd] = (struct vector){.u64 = {value, 0}};
}

static uint64_t scalar(const struct vcpu *cpu, unsigned reg, unsigned size)
{
    return get_lane(&cpu->v[reg], size, 0);
}

/* --- moves ------------------------------------------------------------------------------------- */

static void run_move_immediate(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        set_scalar(cpu, insn, insn->imm);
}

static void run_move(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        set_scalar(cpu, insn, scalar(cpu, insn->rn, insn->size));
}

static void run_select(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    unsigned chosen = condition_holds(cpu, insn->shift) ? insn->rn : insn->rm;
    set_scalar(cpu, insn, scalar(cpu, chosen, insn->size));
}

/* `shift`: the lane, which is not 0 for the upper half of a register only. */
static void run_move_to_general(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        cpu->x[insn->rd] = get_lane(&cpu->v[insn->rn], insn->size, insn->shift);
}

static void run_move_from_general(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    if (!insn->shift)
        set_scalar(cpu, insn, 0);
    set_lane(&cpu->v[insn->rd], insn->size, insn->shift, cpu->x[insn->rn]);
}

/* --- comparisons -------------------------------------------------------------------------------- */

enum compare_flags { COMPARE_ZERO = 1, COMPARE_SIGNALS = 2 };

static void compare(struct vcpu *cpu, const struct insn *insn)
{
    struct fp_env env = fp_env_of(cpu);
    enum fp_size size = insn->size;
    uint64_t b = insn->flags & COMPARE_ZERO ? 0 : scalar(cpu, insn->rm, size);
    cpu->nzcv = fp_compare(size, scalar(cpu, insn->rn, size), b,
                           insn->flags & COMPARE_SIGNALS, &env);
    cpu->fpsr = env.fpsr;
}

static void run_compare(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu))
        compare(cpu, insn);
}

static void run_conditional_compare(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    if (condition_holds(cpu, insn->shift))
        compare(cpu, insn);
    else
        cpu->nzcv = BITS(insn->raw, 3, 0) << 28;
}

static bool decode_compare(uint32_t word, struct insn *insn)
{
    if (BITS(word, 15, 14) || BITS(word, 2, 0))
        return false;
    insn->flags = (uint8_t)((BIT(word, 3) ? COMPARE_ZERO : 0) |
                            (BIT(word, 4) ? COMPARE_SIGNALS : 0));
    insn->run = run_compare;
    return true;
}

static bool decode_conditional_compare(uint32_t word, struct insn *insn)
{
    insn->shift = (uint8_t)BITS(word, 15, 12);
    insn->flags = BIT(word, 4) ? COMPARE_SIGNALS : 0;
    insn->run = run_conditional_compare;
    return true;
}

/* --- conversions with general-purpose registers --------------------------------------------------- */

/* `amount`: the integer's bits; `shift`: those of them that are fraction; `imm`: unsigned. */
static struct fixed_format general_format(const struct insn *insn)
{
    return (struct fixed_format){insn->amount, insn->shift, insn->imm};
}

static void run_to_general(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    cpu->x[insn->rd] = fp_to_fixed(insn->size, scalar(cpu, insn->rn, insn->size),
                                   general_format(insn), rounding_of(cpu, insn), &env);
    cpu->fpsr = env.fpsr;
}

static void run_from_general(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct fp_env env = fp_env_of(cpu);
    set_scalar(cpu, insn,
               fixed_to_fp(insn->size, cpu->x[insn->rn], general_format(insn), &env));
    cpu->fpsr = env.fpsr;
}

static bool decode_to_general(uint32_t word, struct insn *insn, enum fp_rounding rounding)
{
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->ra = (uint8_t)rounding;
    insn->run = run_to_general;
    return true;
}

static bool decode_from_general(uint32_t word, struct insn *insn)
{
    insn->rn = slot_source(BITS(word, 9, 5));
    insn->run = run_from_general;
    return true;
}

static bool decode_fixed_point(uint32_t word, struct insn *insn)
{
    bool is_64_bit = BIT(word, 31);
    if (!is_64_bit && !BIT(word, 15))
        return false;
    insn->amount = is_64_bit ? 64 : 32;
    insn->shift = (uint8_t)(64 - BITS(word, 15, 10));
    insn->imm = BIT(word, 16);
    switch (BITS(word, 20, 17)) { /* rmode and opcode */
    case 0x1:
        return decode_from_general(word, insn);
    case 0xc:
        return decode_to_general(word, insn, FP_TOWARDS_ZERO);
    default:
        return false;
    }
}

static bool decode_general_move(uint32_t word, struct insn *insn)
{
    bool from_general = BIT(word, 16), is_64_bit = BIT(word, 31);
    bool is_upper = BITS(word, 20, 19) == 1 && BITS(word, 23, 22) == 2;
    if (is_upper)
        insn->size = FP_DOUBLE;
    else if (BITS(word, 20, 19) || !insn->size)
        return false;
    if (insn->size != FP_HALF && (insn->size == FP_DOUBLE) != is_64_bit)
        return false;
    insn->shift = is_upper;
    if (from_general)
        insn->rn = slot_source(BITS(word, 9, 5));
    else
        insn->rd = slot_target(BITS(word, 4, 0));
    insn->run = from_general ? run_move_from_general : run_move_to_general;
    return true;
}

static bool decode_integer(uint32_t word, struct insn *insn)
{
    unsigned rmode = BITS(word, 20, 19), opcode = BITS(word, 18, 17);
    if (opcode == 3)
        return decode_general_move(word, insn);
    insn->amount = BIT(word, 31) ? 64 : 32;
    insn->imm = BIT(word, 16);
    if (!insn->size || (opcode && rmode))
        return false;
    switch (opcode) {
    case 0:
        return decode_to_general(word, insn, (enum fp_rounding)rmode);
    case 1:
        return decode_from_general(word, insn);
    default:
        return decode_to_general(word, insn, FP_TIE_AWAY);
    }
}

/* --- one source ----------------------------------------------------------------------------------- */

static bool decode_convert(uint32_t word, struct insn *insn)
{
    uint8_t to = fp_size_of(BITS(word, 16, 15));
    if (!to || to == insn->size)
        return false;
    insn->shift = to;
    insn->amount = (uint8_t)(1u << to);
    insn->ra = FP_CURRENT_ROUNDING;
    insn->imm = 1;
    insn->run = run_fp_convert;
    return true;
}

static bool decode_round_int(uint32_t word, struct insn *insn)
{
    static const uint8_t roundings[8] = {FP_TIE_EVEN,         FP_PLUS_INFINITY,
                                         FP_MINUS_INFINITY,   FP_TOWARDS_ZERO,
                                         FP_TIE_AWAY,         0,
                                         FP_CURRENT_ROUNDING, FP_CURRENT_ROUNDING};
    unsigned opcode = BITS(word, 17, 15);
    insn->ra = roundings[opcode];
    insn->imm = opcode == 6; /* FRINTX */
    insn->run = run_fp_round_int;
    return opcode != 5;
}

static bool decode_one_source(uint32_t word, struct insn *insn)
{
    static fp_unary *const operations[4] = {NULL, fp_abs, fp_neg, fp_sqrt};
    switch (BITS(word, 20, 17)) {
    case 0:
        insn->unary = operations[BITS(word, 16, 15)];
        insn->run = insn->unary ? handler_of_unary(insn->unary, insn->size) : run_move;
        return true;
    case 1:
        return decode_convert(word, insn);
    case 2: case 3:
        return decode_round_int(word, insn);
    default:
        return false;
    }
}

/* --- two and three sources ------------------------------------------------------------------------- */

static bool decode_two_source(uint32_t word, struct insn *insn)
{
    static fp_binary *const operations[16] = {fp_mul, fp_div,     fp_add,     fp_sub,    fp_max,
                                              fp_min, fp_max_num, fp_min_num, fp_neg_mul};
    insn->binary = operations[BITS(word, 15, 12)];
    insn->run = handler_of_binary(insn->binary, insn->size);
    return insn->binary;
}

/* FMADD a + nm, FMSUB a - nm, FNMADD -a - nm, FNMSUB -a + nm */
static bool decode_three_source(uint32_t word, struct insn *insn)
{
    bool negate_addend = BIT(word, 21), negate_product = BIT(word, 15) != BIT(word, 21);
    insn->ra = (uint8_t)BITS(word, 14, 10);
    insn->flags = (uint8_t)((negate_addend ? FP_NEGATE_ADDEND : 0) |
                            (negate_product ? FP_NEGATE_PRODUCT : 0));
    insn->run = handler_of_multiply_add(insn->size);
    return true;
}

static bool decode_move_immediate(uint32_t word, struct insn *insn)
{
    const struct fp_format *format = &fp_formats[insn->size];
    insn->imm = expand_float(BITS(word, 20, 13), format->bits, format->exponent_bits);
    insn->run = run_move_immediate;
    return !BITS(word, 9, 5);
}

static bool decode_select(uint32_t word, struct insn *insn)
{
    insn->shift = (uint8_t)BITS(word, 15, 12);
    insn->run = run_select;
    return true;
}

/* Bit 21 is set, bits 15:10 are not all zero. */
static bool decode_data_processing(uint32_t word, struct insn *insn)
{
    if (BIT(word, 31) || !insn->size)
        return false;
    switch (BITS(word, 11, 10)) {
    case 1:
        return decode_conditional_compare(word, insn);
    case 2:
        return decode_two_source(word, insn);
    case 3:
        return decode_select(word, insn);
    default:
        break;
    }
    if (BIT(word, 12))
        return decode_move_immediate(word, insn);
    if (BIT(word, 13))
        return decode_compare(word, insn);
    return BIT(word, 14) && decode_one_source(word, insn);
}

bool decode_fp_scalar(uint32_t word, struct insn *insn)
{
    insn->size = fp_size_of(BITS(word, 23, 22));
    insn->amount = (uint8_t)(1u << insn->size);
    if (BITS(word, 30, 29))
        return false;
    if (BIT(word, 24))
        return !BIT(word, 31) && insn->size && decode_three_source(word, insn);
    if (!BIT(word, 21))
        return insn->size && decode_fixed_point(word, insn);
    if (!BITS(word, 15, 10))
        return decode_integer(word, insn);
    return decode_data_processing(word, insn);
}
