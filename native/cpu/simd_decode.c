/* Decoding of SIMD and floating-point data processing (DDI 0487 C4.1.96): the groups, and for each
 * group of integer operations one table, by U (bit 29) and opcode. */
#include "simd.h"

/* Integer operations: not here yet. */
static bool decode_integer(uint32_t word, struct insn *insn)
{
    (void)word;
    insn->run = run_unsupported;
    return true;
}

static bool decode_three_same(uint32_t word, struct insn *insn)
{
    return BITS(word, 15, 11) >= 24 ? decode_fp_three_same(word, insn)
                                    : decode_integer(word, insn);
}

static bool is_fp_two_misc(unsigned opcode, unsigned size)
{
    return (opcode >= 12 && opcode <= 15 && size >= 2) || opcode >= 22;
}

static bool decode_two_misc(uint32_t word, struct insn *insn)
{
    return is_fp_two_misc(BITS(word, 16, 12), BITS(word, 23, 22)) ? decode_fp_two_misc(word, insn)
                                                                  : decode_integer(word, insn);
}

static bool decode_across(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 16, 12);
    return opcode == 12 || opcode == 15 ? decode_fp_across(word, insn)
                                        : decode_integer(word, insn);
}

static bool decode_pairwise(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 16, 12);
    return opcode >= 12 && opcode <= 15 ? decode_fp_pairwise(word, insn)
                                        : decode_integer(word, insn);
}

static bool decode_by_element(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 12);
    bool is_fp = BIT(word, 29) ? opcode == 9 : opcode == 1 || opcode == 5 || opcode == 9;
    return is_fp ? decode_fp_by_element(word, insn) : decode_integer(word, insn);
}

static bool decode_shift(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 11);
    return opcode == 28 || opcode == 31 ? decode_fp_shift(word, insn)
                                        : decode_integer(word, insn);
}

/* --- the groups ---------------------------------------------------------------------------- */

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
    {0x9f208400, 0x0e008400, decode_integer}, /* three registers, extra */
    {0x9f3e0c00, 0x0e200800, decode_two_misc},
    {0x9f3e0c00, 0x0e300800, decode_across},
    {0x9f200c00, 0x0e200000, decode_integer}, /* three registers, of different widths */
    {0x9f200400, 0x0e200400, decode_three_same},
    {0x9f800400, 0x0f000400, decode_shift},
    {0x9f000400, 0x0f000000, decode_by_element},
    /* Scalars. */
    {0xffe08400, 0x5e000400, decode_simd_copy},
    {0xdf60c400, 0x5e400400, decode_fp_three_same_half},
    {0xdf7e0c00, 0x5e780800, decode_fp_two_misc_half},
    {0xdf208400, 0x5e008400, decode_integer}, /* three registers, extra */
    {0xdf3e0c00, 0x5e200800, decode_two_misc},
    {0xdf3e0c00, 0x5e300800, decode_pairwise},
    {0xdf200c00, 0x5e200000, decode_integer}, /* three registers, of different widths */
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
