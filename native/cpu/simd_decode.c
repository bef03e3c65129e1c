/* Decoding of SIMD and floating-point data processing (DDI 0487 C4.1.96): the groups, and for each
 * group of integer operations one table, by U (bit 29) and opcode. */
#include "simd_lanes.h"

/* --- tables ----------------------------------------------------------------------------- */

enum sizes { B = 1, H = 2, S = 4, D = 8, BHS = 7, HS = 6, ALL = 15 };

/* What an operation makes of its lanes' width. */
enum width_change { SAME, LONG, NARROW };

/* Sizes are bits of enum sizes; none of them: unallocated. */
struct operation {
    insn_handler *const *handlers; /* by size */
    uint8_t vectors, scalars;
    uint8_t change;
};

/* By U. */
static const struct operation three_same[2][24] = {
    {
        [0] = {simd_shadd, BHS, 0, SAME},
        [1] = {simd_sqadd, ALL, ALL, SAME},
        [2] = {simd_srhadd, BHS, 0, SAME},
        [4] = {simd_shsub, BHS, 0, SAME},
        [5] = {simd_sqsub, ALL, ALL, SAME},
        [6] = {simd_cmgt, ALL, D, SAME},
        [7] = {simd_cmge, ALL, D, SAME},
        [8] = {simd_sshl, ALL, D, SAME},
        [9] = {simd_sqshl, ALL, ALL, SAME},
        [10] = {simd_srshl, ALL, D, SAME},
        [11] = {simd_sqrshl, ALL, ALL, SAME},
        [12] = {simd_smax, BHS, 0, SAME},
        [13] = {simd_smin, BHS, 0, SAME},
        [14] = {simd_sabd, BHS, 0, SAME},
        [15] = {simd_saba, BHS, 0, SAME},
        [16] = {simd_add, ALL, D, SAME},
        [17] = {simd_cmtst, ALL, D, SAME},
        [18] = {simd_mla, BHS, 0, SAME},
        [19] = {simd_mul, BHS, 0, SAME},
        [20] = {simd_smaxp, BHS, 0, SAME},
        [21] = {simd_sminp, BHS, 0, SAME},
        [22] = {simd_sqdmulh, HS, HS, SAME},
        [23] = {simd_addp, ALL, 0, SAME},
    },
    {
        [0] = {simd_uhadd, BHS, 0, SAME},
        [1] = {simd_uqadd, ALL, ALL, SAME},
        [2] = {simd_urhadd, BHS, 0, SAME},
        [4] = {simd_uhsub, BHS, 0, SAME},
        [5] = {simd_uqsub, ALL, ALL, SAME},
        [6] = {simd_cmhi, ALL, D, SAME},
        [7] = {simd_cmhs, ALL, D, SAME},
        [8] = {simd_ushl, ALL, D, SAME},
        [9] = {simd_uqshl, ALL, ALL, SAME},
        [10] = {simd_urshl, ALL, D, SAME},
        [11] = {simd_uqrshl, ALL, ALL, SAME},
        [12] = {simd_umax, BHS, 0, SAME},
        [13] = {simd_umin, BHS, 0, SAME},
        [14] = {simd_uabd, BHS, 0, SAME},
        [15] = {simd_uaba, BHS, 0, SAME},
        [16] = {simd_sub, ALL, D, SAME},
        [17] = {simd_cmeq, ALL, D, SAME},
        [18] = {simd_mls, BHS, 0, SAME},
        [19] = {simd_pmul, B, 0, SAME},
        [20] = {simd_umaxp, BHS, 0, SAME},
        [21] = {simd_uminp, BHS, 0, SAME},
        [22] = {simd_sqrdmulh, HS, HS, SAME},
    },
};

static const struct operation three_different[2][16] = {
    {
        {simd_saddl, BHS, 0, LONG},
        {simd_saddw, BHS, 0, LONG},
        {simd_ssubl, BHS, 0, LONG},
        {simd_ssubw, BHS, 0, LONG},
        {simd_addhn, BHS, 0, NARROW},
        {simd_sabal, BHS, 0, LONG},
        {simd_subhn, BHS, 0, NARROW},
        {simd_sabdl, BHS, 0, LONG},
        {simd_smlal, BHS, 0, LONG},
        {simd_sqdmlal, HS, HS, LONG},
        {simd_smlsl, BHS, 0, LONG},
        {simd_sqdmlsl, HS, HS, LONG},
        {simd_smull, BHS, 0, LONG},
        {simd_sqdmull, HS, HS, LONG},
        {simd_pmull, B | D, 0, LONG},
        {0},
    },
    {
        {simd_uaddl, BHS, 0, LONG},
        {simd_uaddw, BHS, 0, LONG},
        {simd_usubl, BHS, 0, LONG},
        {simd_usubw, BHS, 0, LONG},
        {simd_raddhn, BHS, 0, NARROW},
        {simd_uabal, BHS, 0, LONG},
        {simd_rsubhn, BHS, 0, NARROW},
        {simd_uabdl, BHS, 0, LONG},
        {simd_umlal, BHS, 0, LONG},
        {0},
        {simd_umlsl, BHS, 0, LONG},
        {0},
        {simd_umull, BHS, 0, LONG},
        {0},
    },
};

static const struct operation by_element[2][16] = {
    {
        [2] = {simd_smlal, HS, 0, LONG},
        [3] = {simd_sqdmlal, HS, HS, LONG},
        [6] = {simd_smlsl, HS, 0, LONG},
        [7] = {simd_sqdmlsl, HS, HS, LONG},
        [8] = {simd_mul, HS, 0, SAME},
        [10] = {simd_smull, HS, 0, LONG},
        [11] = {simd_sqdmull, HS, HS, LONG},
        [12] = {simd_sqdmulh, HS, HS, SAME},
        [13] = {simd_sqrdmulh, HS, HS, SAME},
    },
    {
        [0] = {simd_mla, HS, 0, SAME},
        [2] = {simd_umlal, HS, 0, LONG},
        [4] = {simd_mls, HS, 0, SAME},
        [6] = {simd_umlsl, HS, 0, LONG},
        [10] = {simd_umull, HS, 0, LONG},
        [13] = {simd_sqrdmlah, HS, HS, SAME},
        [15] = {simd_sqrdmlsh, HS, HS, SAME},
    },
};

/* The second operand, where there is one, is zero. */
static const struct operation two_misc[2][22] = {
    {
        [2] = {simd_saddlp, BHS, 0, SAME},
        [3] = {simd_suqadd, ALL, ALL, SAME},
        [4] = {simd_cls, BHS, 0, SAME},
        [5] = {simd_cnt, B, 0, SAME},
        [6] = {simd_sadalp, BHS, 0, SAME},
        [7] = {simd_sqabs, ALL, ALL, SAME},
        [8] = {simd_cmgt, ALL, D, SAME},
        [9] = {simd_cmeq, ALL, D, SAME},
        [10] = {simd_cmlt, ALL, D, SAME},
        [11] = {simd_abs, ALL, D, SAME},
        [18] = {simd_shrn, BHS, 0, NARROW},
        [20] = {simd_sqshrn, BHS, BHS, NARROW},
    },
    {
        [2] = {simd_uaddlp, BHS, 0, SAME},
        [3] = {simd_usqadd, ALL, ALL, SAME},
        [4] = {simd_clz, BHS, 0, SAME},
        [6] = {simd_uadalp, BHS, 0, SAME},
        [7] = {simd_sqneg, ALL, ALL, SAME},
        [8] = {simd_cmge, ALL, D, SAME},
        [9] = {simd_cmle, ALL, D, SAME},
        [11] = {simd_neg, ALL, D, SAME},
        [18] = {simd_sqshrun, BHS, BHS, NARROW},
        [19] = {simd_shll, BHS, 0, LONG},
        [20] = {simd_uqshrn, BHS, BHS, NARROW},
    },
};

static const struct operation shifts[2][21] = {
    {
        [0] = {simd_sshr, ALL, D, SAME},
        [2] = {simd_ssra, ALL, D, SAME},
        [4] = {simd_srshr, ALL, D, SAME},
        [6] = {simd_srsra, ALL, D, SAME},
        [10] = {simd_shl, ALL, D, SAME},
        [14] = {simd_sqshl, ALL, ALL, SAME},
        [16] = {simd_shrn, BHS, 0, NARROW},
        [17] = {simd_rshrn, BHS, 0, NARROW},
        [18] = {simd_sqshrn, BHS, BHS, NARROW},
        [19] = {simd_sqrshrn, BHS, BHS, NARROW},
        [20] = {simd_sshll, BHS, 0, LONG},
    },
    {
        [0] = {simd_ushr, ALL, D, SAME},
        [2] = {simd_usra, ALL, D, SAME},
        [4] = {simd_urshr, ALL, D, SAME},
        [6] = {simd_ursra, ALL, D, SAME},
        [8] = {simd_sri, ALL, D, SAME},
        [10] = {simd_sli, ALL, D, SAME},
        [12] = {simd_sqshlu, ALL, ALL, SAME},
        [14] = {simd_uqshl, ALL, ALL, SAME},
        [16] = {simd_sqshrun, BHS, BHS, NARROW},
        [17] = {simd_sqrshrun, BHS, BHS, NARROW},
        [18] = {simd_uqshrn, BHS, BHS, NARROW},
        [19] = {simd_uqrshrn, BHS, BHS, NARROW},
        [20] = {simd_ushll, BHS, 0, LONG},
    },
};

static const struct operation across[2][32] = {
    {
        [3] = {simd_saddlv, BHS, 0, SAME},
        [10] = {simd_smaxv, BHS, 0, SAME},
        [26] = {simd_sminv, BHS, 0, SAME},
        [27] = {simd_addv, BHS, 0, SAME},
    },
    {
        [3] = {simd_uaddlv, BHS, 0, SAME},
        [10] = {simd_umaxv, BHS, 0, SAME},
        [26] = {simd_uminv, BHS, 0, SAME},
    },
};

/* --- the groups that use them ----------------------------------------------------------- */

static bool is_scalar(uint32_t word)
{
    return BIT(word, 28);
}

/* False if the operation does not exist with lanes of this size. */
static bool choose(const struct operation *operation, uint32_t word, struct insn *insn,
                   unsigned size)
{
    bool scalar = is_scalar(word), is_full = BIT(word, 30);
    unsigned sizes = scalar ? operation->scalars : operation->vectors;
    if (!BIT(sizes, size))
        return false;
    insn->run = operation->handlers[size];
    insn->size = (uint8_t)size;
    if (operation->change == SAME) {
        insn->amount = scalar ? (uint8_t)(1u << size) : vector_bytes(word);
        return scalar || is_full || size != 3;
    }
    bool is_long = operation->change == LONG;
    insn->amount = scalar ? (uint8_t)((1u + is_long) << size) : is_long ? 16 : 8;
    insn->flags |= !scalar && is_full ? SIMD_UPPER : 0;
    return true;
}

static void set_second_operand(struct insn *insn, uint64_t bytes)
{
    insn->flags |= SIMD_IMMEDIATE;
    insn->imm = duplicate(bytes, 0);
}

static bool decode_bitwise(uint32_t word, struct insn *insn)
{
    static insn_handler *const *const operations[8] = {simd_and, simd_bic, simd_orr, simd_orn,
                                                       simd_eor, simd_bsl, simd_bit, simd_bif};
    insn->amount = vector_bytes(word);
    insn->run = operations[BIT(word, 29) << 2 | BITS(word, 23, 22)][3];
    return !is_scalar(word);
}

static bool decode_three_same(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 11);
    if (opcode >= 24)
        return decode_fp_three_same(word, insn);
    if (opcode == 3)
        return decode_bitwise(word, insn);
    return choose(&three_same[BIT(word, 29)][opcode], word, insn, BITS(word, 23, 22));
}

/* SDOT and UDOT, whose lanes are of 32 bits. */
static bool choose_dot(uint32_t word, struct insn *insn)
{
    insn->run = BIT(word, 29) ? run_simd_udot : run_simd_sdot;
    insn->size = 2;
    insn->amount = vector_bytes(word);
    return !is_scalar(word) && BITS(word, 23, 22) == 2;
}

static bool decode_three_same_extra(uint32_t word, struct insn *insn)
{
    static const struct operation doubling[2] = {{simd_sqrdmlah, HS, HS, SAME},
                                                 {simd_sqrdmlsh, HS, HS, SAME}};
    unsigned opcode = BITS(word, 14, 11);
    if (opcode == 2)
        return choose_dot(word, insn);
    return BIT(word, 29) && opcode < 2 &&
           choose(&doubling[opcode], word, insn, BITS(word, 23, 22));
}

static bool decode_three_different(uint32_t word, struct insn *insn)
{
    return choose(&three_different[BIT(word, 29)][BITS(word, 15, 12)], word, insn,
                  BITS(word, 23, 22));
}

/* H:L:M or H:L is the lane's number; M is part of the register's if it is not part of that. */
static bool decode_by_element(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 12), size = BITS(word, 23, 22), u = BIT(word, 29);
    if (u ? opcode == 9 : opcode == 1 || opcode == 5 || opcode == 9)
        return decode_fp_by_element(word, insn);
    insn->flags = SIMD_ELEMENT;
    insn->shift = (uint8_t)(BIT(word, 11) << 1 | BIT(word, 21));
    if (size == 1) {
        insn->shift = (uint8_t)(insn->shift << 1 | BIT(word, 20));
        insn->rm &= 15;
    }
    return opcode == 14 ? choose_dot(word, insn)
                        : choose(&by_element[u][opcode], word, insn, size);
}

/* REV64 is opcode 0, REV32 is opcode 0 with U, REV16 opcode 1. */
static bool decode_reverse(uint32_t word, struct insn *insn, unsigned size)
{
    unsigned group = BITS(word, 16, 12) ? 1 : BIT(word, 29) ? 2 : 3;
    insn->run = run_simd_reverse;
    insn->shift = (uint8_t)((1u << group) - (1u << size));
    insn->amount = vector_bytes(word);
    return !is_scalar(word) && size < group && !(group == 1 && BIT(word, 29));
}

static bool decode_not_or_reverse_bits(uint32_t word, struct insn *insn, unsigned size)
{
    insn->run = size ? simd_rbit[0] : simd_not[0];
    insn->amount = vector_bytes(word);
    return !is_scalar(word) && size < 2;
}

static bool decode_two_misc(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 16, 12), size = BITS(word, 23, 22), u = BIT(word, 29);
    if (opcode >= 22 || (opcode >= 12 && opcode <= 15 && size >= 2))
        return decode_fp_two_misc(word, insn);
    if (opcode < 2)
        return decode_reverse(word, insn, size);
    if (opcode == 5 && u)
        return decode_not_or_reverse_bits(word, insn, size);
    set_second_operand(insn, 0);
    return choose(&two_misc[u][opcode], word, insn, size);
}

static bool decode_across(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 16, 12), size = BITS(word, 23, 22);
    if (opcode == 12 || opcode == 15)
        return decode_fp_across(word, insn);
    if (!choose(&across[BIT(word, 29)][opcode], word, insn, size))
        return false;
    insn->shift = vector_bytes(word) >> size;
    insn->amount = (uint8_t)((opcode == 3 ? 2u : 1u) << size);
    return insn->shift > 2;
}

static bool decode_pairwise(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 16, 12);
    if (opcode >= 12 && opcode <= 15)
        return decode_fp_pairwise(word, insn);
    insn->run = simd_addv[3]; /* ADDP of the two lanes that there are */
    insn->amount = 8;
    insn->shift = 2;
    return opcode == 27 && BITS(word, 23, 22) == 3 && !BIT(word, 29);
}

/* immh:immb is the amount plus the lane's width (left), or twice the width less the amount. */
static bool decode_shift(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 11), immediate = BITS(word, 22, 16);
    if (opcode == 28 || opcode == 31)
        return decode_fp_shift(word, insn);
    if (immediate < 8 || opcode > 20)
        return false;
    unsigned size = 28 - (unsigned)__builtin_clz(immediate), bits = 8u << size;
    bool to_the_left = opcode == 10 || opcode == 12 || opcode == 14 || opcode == 20;
    set_second_operand(insn, to_the_left ? immediate - bits : 2 * bits - immediate);
    return choose(&shifts[BIT(word, 29)][opcode], word, insn, size);
}

/* --- the groups ------------------------------------------------------------------------- */

struct group {
    uint32_t mask, value;
    bool (*decode)(uint32_t word, struct insn *insn);
};

static const struct group groups[] = {
    {0x5e000000, 0x1e000000, decode_fp_scalar},
    /* Vectors. */
    {0xbf208c00, 0x0e000000, decode_simd_table},
    {0xbf208c00, 0x0e000800, decode_simd_permute},
    {0xbf208400, 0x2e000000, decode_simd_extract},
    {0x9fe08400, 0x0e000400, decode_simd_copy},
    {0x9f60c400, 0x0e400400, decode_fp_three_same_half},
    {0x9f7e0c00, 0x0e780800, decode_fp_two_misc_half},
    {0x9ff80400, 0x0f000400, decode_simd_modified_immediate},
    {0x9f208400, 0x0e008400, decode_three_same_extra},
    {0x9f3e0c00, 0x0e200800, decode_two_misc},
    {0x9f3e0c00, 0x0e300800, decode_across},
    {0x9f200c00, 0x0e200000, decode_three_different},
    {0x9f200400, 0x0e200400, decode_three_same},
    {0x9f800400, 0x0f000400, decode_shift},
    {0x9f000400, 0x0f000000, decode_by_element},
    /* Scalars. */
    {0xffe08400, 0x5e000400, decode_simd_copy},
    {0xdf60c400, 0x5e400400, decode_fp_three_same_half},
    {0xdf7e0c00, 0x5e780800, decode_fp_two_misc_half},
    {0xdf208400, 0x5e008400, decode_three_same_extra},
    {0xdf3e0c00, 0x5e200800, decode_two_misc},
    {0xdf3e0c00, 0x5e300800, decode_pairwise},
    {0xdf200c00, 0x5e200000, decode_three_different},
    {0xdf200400, 0x5e200400, decode_three_same},
    {0xdf800400, 0x5f000400, decode_shift},
    {0xdf000400, 0x5f000000, decode_by_element},
    /* Cryptography. */
    {0xff3e0c00, 0x4e280800, decode_crypto_aes},
    {0xff208c00, 0x5e000000, decode_crypto_three},
    {0xff3e0c00, 0x5e280800, decode_crypto_two},
};

bool decode_simd(uint32_t word, struct insn *insn)
{
    insn->rd = (uint8_t)BITS(word, 4, 0);
    insn->rn = (uint8_t)BITS(word, 9, 5);
    insn->rm = (uint8_t)BITS(word, 20, 16);
    for (unsigned i = 0; i < sizeof groups / sizeof groups[0]; i++)
        if ((word & groups[i].mask) == groups[i].value)
            return groups[i].decode(word, insn);
    return false;
}
