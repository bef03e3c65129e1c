/* Floating point in the groups of Advanced SIMD (DDI 0487 C4.1), of vectors and of scalars: which
 * operation an encoding names. fp_lanes.c has the handlers.
 *
 * In all groups bit 23 and U (bit 29) belong to the opcode; bit 22 tells double from single, unless
 * the group is that of half precision. */
#include "fp_lanes.h"

enum form_flags {
    OF_VECTORS = 1,
    OF_SCALARS = 2,
    OF_BOTH = 3,
    ONLY_SINGLES = 4,
};

static bool is_scalar(uint32_t word)
{
    return BIT(word, 28);
}

/* Sets what the size of lanes decides; false if there is no such arrangement. */
static bool set_lanes(uint32_t word, struct insn *insn, enum fp_size size)
{
    insn->size = (uint8_t)size;
    if (is_scalar(word)) {
        insn->amount = (uint8_t)(1u << size);
        return BIT(word, 30);
    }
    insn->amount = BIT(word, 30) ? 16 : 8;
    return size != FP_DOUBLE || BIT(word, 30);
}

static enum fp_size single_or_double(uint32_t word)
{
    return BIT(word, 22) ? FP_DOUBLE : FP_SINGLE;
}

static bool is_of(uint32_t word, unsigned flags)
{
    return flags & (is_scalar(word) ? OF_SCALARS : OF_VECTORS);
}

/* --- three registers of one size -------------------------------------------------------------------- */

enum { FUSED = 1, FUSED_NEGATED, LANEWISE, PAIRWISE };

struct three_form {
    fp_binary *binary;
    uint8_t kind, flags;
};

#define THREE(u, bit23, opcode) ((u) << 4 | (bit23) << 3 | ((opcode) & 7))

static const struct three_form three_forms[32] = {
    [THREE(0, 0, 0x18)] = {fp_max_num, LANEWISE, OF_VECTORS},
    [THREE(0, 0, 0x19)] = {NULL, FUSED, OF_VECTORS},
    [THREE(0, 0, 0x1a)] = {fp_add, LANEWISE, OF_VECTORS},
    [THREE(0, 0, 0x1b)] = {fp_mul_x, LANEWISE, OF_BOTH},
    [THREE(0, 0, 0x1c)] = {fp_compare_eq, LANEWISE, OF_BOTH},
    [THREE(0, 0, 0x1e)] = {fp_max, LANEWISE, OF_VECTORS},
    [THREE(0, 0, 0x1f)] = {fp_recip_step, LANEWISE, OF_BOTH},
    [THREE(0, 1, 0x18)] = {fp_min_num, LANEWISE, OF_VECTORS},
    [THREE(0, 1, 0x19)] = {NULL, FUSED_NEGATED, OF_VECTORS},
    [THREE(0, 1, 0x1a)] = {fp_sub, LANEWISE, OF_VECTORS},
    [THREE(0, 1, 0x1e)] = {fp_min, LANEWISE, OF_VECTORS},
    [THREE(0, 1, 0x1f)] = {fp_rsqrt_step, LANEWISE, OF_BOTH},
    [THREE(1, 0, 0x18)] = {fp_max_num, PAIRWISE, OF_VECTORS},
    [THREE(1, 0, 0x1a)] = {fp_add, PAIRWISE, OF_VECTORS},
    [THREE(1, 0, 0x1b)] = {fp_mul, LANEWISE, OF_VECTORS},
    [THREE(1, 0, 0x1c)] = {fp_compare_ge, LANEWISE, OF_BOTH},
    [THREE(1, 0, 0x1d)] = {fp_compare_abs_ge, LANEWISE, OF_BOTH},
    [THREE(1, 0, 0x1e)] = {fp_max, PAIRWISE, OF_VECTORS},
    [THREE(1, 0, 0x1f)] = {fp_div, LANEWISE, OF_VECTORS},
    [THREE(1, 1, 0x18)] = {fp_min_num, PAIRWISE, OF_VECTORS},
    [THREE(1, 1, 0x1a)] = {fp_abd, LANEWISE, OF_BOTH},
    [THREE(1, 1, 0x1c)] = {fp_compare_gt, LANEWISE, OF_BOTH},
    [THREE(1, 1, 0x1d)] = {fp_compare_abs_gt, LANEWISE, OF_BOTH},
    [THREE(1, 1, 0x1e)] = {fp_min, PAIRWISE, OF_VECTORS},
};

static void set_fused(struct insn *insn, bool negated)
{
    insn->ra = insn->rd;
    insn->flags |= negated ? FP_NEGATE_PRODUCT : 0;
    insn->run = handler_of_multiply_add(insn->size);
}

static void set_binary(struct insn *insn, fp_binary *binary, insn_handler *run)
{
    insn->binary = binary;
    insn->run = run;
}

static bool decode_three(uint32_t word, struct insn *insn, unsigned opcode, enum fp_size size)
{
    const struct three_form *form = &three_forms[THREE(BIT(word, 29), BIT(word, 23), opcode)];
    if (!is_of(word, form->flags) || !set_lanes(word, insn, size))
        return false;
    if (form->kind == FUSED || form->kind == FUSED_NEGATED)
        set_fused(insn, form->kind == FUSED_NEGATED);
    else
        set_binary(insn, form->binary, form->kind == PAIRWISE ? run_fp_pairwise
                                                        : handler_of_binary(form->binary, size));
    return true;
}

bool decode_fp_three_same(uint32_t word, struct insn *insn)
{
    return decode_three(word, insn, BITS(word, 15, 11), single_or_double(word));
}

bool decode_fp_three_same_half(uint32_t word, struct insn *insn)
{
    return decode_three(word, insn, BITS(word, 13, 11), FP_HALF);
}

/* --- two registers ------------------------------------------------------------------------------------ */

struct misc_form {
    insn_handler *run; /* NULL: that of `unary` */
    fp_unary *unary;
    uint8_t flags, rounding, parameter; /* enum form_flags; struct insn's ra and imm */
};

static void run_unsigned_estimate(struct vcpu *cpu, const struct insn *insn)
{
    if (!fp_enabled(cpu))
        return;
    struct vector result = {0};
    for (unsigned i = 0; i < insn->amount / 4u; i++) {
        uint32_t lane = cpu->v[insn->rn].u32[i];
        result.u32[i] = insn->imm ? unsigned_rsqrt_estimate(lane) : unsigned_recip_estimate(lane);
    }
    write_vector(cpu, insn->rd, &result, insn->amount);
}

#define MISC(u, bit23, opcode) ((u) << 6 | (bit23) << 5 | (opcode))
#define UNARY(operation, flags) {NULL, operation, flags, 0, 0}
#define ROUND(rounding, exact) {run_fp_round_int, NULL, OF_VECTORS, rounding, exact}
#define TO_FIXED(rounding, is_unsigned) {run_fp_to_fixed, NULL, OF_BOTH, rounding, is_unsigned}
#define FROM_FIXED(is_unsigned) {run_fixed_to_fp, NULL, OF_BOTH, 0, is_unsigned}
#define ESTIMATE(is_root) {run_unsigned_estimate, NULL, OF_VECTORS | ONLY_SINGLES, 0, is_root}

static const struct misc_form misc_forms[128] = {
    [MISC(0, 0, 0x18)] = ROUND(FP_TIE_EVEN, false),
    [MISC(0, 0, 0x19)] = ROUND(FP_MINUS_INFINITY, false),
    [MISC(0, 1, 0x18)] = ROUND(FP_PLUS_INFINITY, false),
    [MISC(0, 1, 0x19)] = ROUND(FP_TOWARDS_ZERO, false),
    [MISC(1, 0, 0x18)] = ROUND(FP_TIE_AWAY, false),
    [MISC(1, 0, 0x19)] = ROUND(FP_CURRENT_ROUNDING, true),
    [MISC(1, 1, 0x19)] = ROUND(FP_CURRENT_ROUNDING, false),
    [MISC(0, 0, 0x1a)] = TO_FIXED(FP_TIE_EVEN, false),
    [MISC(0, 0, 0x1b)] = TO_FIXED(FP_MINUS_INFINITY, false),
    [MISC(0, 0, 0x1c)] = TO_FIXED(FP_TIE_AWAY, false),
    [MISC(0, 1, 0x1a)] = TO_FIXED(FP_PLUS_INFINITY, false),
    [MISC(0, 1, 0x1b)] = TO_FIXED(FP_TOWARDS_ZERO, false),
    [MISC(1, 0, 0x1a)] = TO_FIXED(FP_TIE_EVEN, true),
    [MISC(1, 0, 0x1b)] = TO_FIXED(FP_MINUS_INFINITY, true),
    [MISC(1, 0, 0x1c)] = TO_FIXED(FP_TIE_AWAY, true),
    [MISC(1, 1, 0x1a)] = TO_FIXED(FP_PLUS_INFINITY, true),
    [MISC(1, 1, 0x1b)] = TO_FIXED(FP_TOWARDS_ZERO, true),
    [MISC(0, 0, 0x1d)] = FROM_FIXED(false),
    [MISC(1, 0, 0x1d)] = FROM_FIXED(true),
    [MISC(0, 1, 0x0c)] = UNARY(fp_compare_gt_zero, OF_BOTH),
    [MISC(1, 1, 0x0c)] = UNARY(fp_compare_ge_zero, OF_BOTH),
    [MISC(0, 1, 0x0d)] = UNARY(fp_compare_eq_zero, OF_BOTH),
    [MISC(1, 1, 0x0d)] = UNARY(fp_compare_le_zero, OF_BOTH),
    [MISC(0, 1, 0x0e)] = UNARY(fp_compare_lt_zero, OF_BOTH),
    [MISC(0, 1, 0x0f)] = UNARY(fp_abs, OF_VECTORS),
    [MISC(1, 1, 0x0f)] = UNARY(fp_neg, OF_VECTORS),
    [MISC(0, 1, 0x1c)] = ESTIMATE(false),
    [MISC(1, 1, 0x1c)] = ESTIMATE(true),
    [MISC(0, 1, 0x1d)] = UNARY(fp_recip_estimate, OF_BOTH),
    [MISC(1, 1, 0x1d)] = UNARY(fp_rsqrt_estimate, OF_BOTH),
    [MISC(0, 1, 0x1f)] = UNARY(fp_recp_x, OF_SCALARS),
    [MISC(1, 1, 0x1f)] = UNARY(fp_sqrt, OF_VECTORS),
};

static void set_unary(struct insn *insn, fp_unary *unary)
{
    insn->unary = unary;
    insn->run = handler_of_unary(unary, insn->size);
}

static bool decode_misc(uint32_t word, struct insn *insn, enum fp_size size)
{
    const struct misc_form *form =
        &misc_forms[MISC(BIT(word, 29), BIT(word, 23), BITS(word, 16, 12))];
    if (!is_of(word, form->flags) || !set_lanes(word, insn, size) ||
        (form->flags & ONLY_SINGLES && size != FP_SINGLE))
        return false;
    insn->run = form->run;
    insn->ra = form->rounding;
    if (form->unary)
        set_unary(insn, form->unary);
    else
        insn->imm = form->parameter;
    return true;
}

/* FCVTN, FCVTXN and FCVTL: bit 22 tells double to or from single, single to or from half. */
static bool decode_narrow_or_widen(uint32_t word, struct insn *insn)
{
    bool widens = BIT(word, 12), to_odd = BIT(word, 29), upper = BIT(word, 30);
    uint8_t narrow = BIT(word, 22) ? FP_SINGLE : FP_HALF, wide = (uint8_t)(narrow + 1);
    if (BIT(word, 23) || (to_odd && (widens || narrow != FP_SINGLE)) ||
        (is_scalar(word) && !to_odd))
        return false;
    insn->size = widens ? narrow : wide;
    insn->shift = widens ? wide : narrow;
    insn->ra = to_odd ? FP_TO_ODD : FP_CURRENT_ROUNDING;
    insn->flags = upper && !is_scalar(word) ? SIMD_UPPER : 0;
    insn->imm = is_scalar(word) ? 1 : 8u >> narrow;
    insn->amount = is_scalar(word) ? 4 : widens || upper ? 16 : 8;
    insn->run = run_fp_convert;
    return true;
}

bool decode_fp_two_misc(uint32_t word, struct insn *insn)
{
    if (BITS(word, 16, 13) == 0xb) /* opcode 1011x */
        return decode_narrow_or_widen(word, insn);
    return decode_misc(word, insn, single_or_double(word));
}

bool decode_fp_two_misc_half(uint32_t word, struct insn *insn)
{
    return decode_misc(word, insn, FP_HALF);
}

/* --- across lanes, and pairs of a register ------------------------------------------------------------- */

/* The operations of opcodes 01100, 01101 and 01111, by bit 23. */
static fp_binary *reducing_operation(uint32_t word)
{
    static fp_binary *const operations[2][4] = {{fp_max_num, fp_add, NULL, fp_max},
                                                {fp_min_num, NULL, NULL, fp_min}};
    return BITS(word, 16, 14) == 3 ? operations[BIT(word, 23)][BITS(word, 13, 12)] : NULL;
}

/* Four singles if U is set, else four or eight halves. There is no sum. */
bool decode_fp_across(uint32_t word, struct insn *insn)
{
    fp_binary *operation = reducing_operation(word);
    bool is_single = BIT(word, 29), is_full = BIT(word, 30);
    if (!operation || operation == fp_add || BIT(word, 22) || (is_single && !is_full))
        return false;
    insn->size = is_single ? FP_SINGLE : FP_HALF;
    insn->amount = (uint8_t)(1u << insn->size);
    insn->shift = (is_full ? 16 : 8) >> insn->size;
    set_binary(insn, operation, run_fp_across);
    return true;
}

bool decode_fp_pairwise(uint32_t word, struct insn *insn)
{
    fp_binary *operation = reducing_operation(word);
    bool is_half = !BIT(word, 29);
    if (!operation || (is_half && BIT(word, 22)))
        return false;
    insn->shift = 2;
    set_binary(insn, operation, run_fp_across);
    return set_lanes(word, insn, is_half ? FP_HALF : single_or_double(word));
}

/* --- by element, and fixed point ------------------------------------------------------------------------- */

/* The lane is H:L:M of a half (in one of the first sixteen registers), H:L of a single, H of a
 * double. */
static bool set_element(uint32_t word, struct insn *insn)
{
    unsigned h = BIT(word, 11), l = BIT(word, 21), m = BIT(word, 20);
    insn->flags = SIMD_ELEMENT;
    switch (BITS(word, 23, 22)) {
    case 0:
        insn->rm &= 15;
        insn->shift = (uint8_t)(h << 2 | l << 1 | m);
        return set_lanes(word, insn, FP_HALF);
    case 2:
        insn->shift = (uint8_t)(h << 1 | l);
        return set_lanes(word, insn, FP_SINGLE);
    case 3:
        insn->shift = (uint8_t)h;
        return !l && set_lanes(word, insn, FP_DOUBLE);
    default:
        return false;
    }
}

bool decode_fp_by_element(uint32_t word, struct insn *insn)
{
    bool is_extended = BIT(word, 29);
    fp_binary *operation;
    if (!set_element(word, insn))
        return false;
    switch (BITS(word, 15, 12)) {
    case 0x1: case 0x5:
        set_fused(insn, BIT(word, 14));
        return !is_extended;
    case 0x9:
        operation = is_extended ? fp_mul_x : fp_mul;
        set_binary(insn, operation, handler_of_binary(operation, insn->size));
        return true;
    default:
        return false;
    }
}

/* immh:immb is twice the lane's bits, less the bits of fraction. */
bool decode_fp_shift(uint32_t word, struct insn *insn)
{
    unsigned immh = BITS(word, 22, 19), twice = BITS(word, 22, 16);
    bool to_fixed = BITS(word, 15, 11) == 0x1f;
    if (immh < 2)
        return false;
    enum fp_size size = immh >= 8 ? FP_DOUBLE : immh >= 4 ? FP_SINGLE : FP_HALF;
    insn->shift = (uint8_t)((16u << size) - twice);
    insn->ra = FP_TOWARDS_ZERO;
    insn->imm = BIT(word, 29);
    insn->run = to_fixed ? run_fp_to_fixed : run_fixed_to_fp;
    return set_lanes(word, insn, size);
}
