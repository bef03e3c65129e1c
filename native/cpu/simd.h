/* What the SIMD and floating-point instructions share (DDI 0487 C7): the trap, lanes, decoding.
 *
 * Every handler of theirs begins with fp_enabled(). Decoding fills the struct insn so:
 *   rd, rn, rm, ra   numbers of vector registers, or slots of general-purpose ones
 *   size             log2 of a lane's bytes; the narrower one if an instruction has two
 *   amount           bytes of the destination that are written; those above become zero
 *   flags            enum simd_flags
 *   shift, imm       as the handler says */
#ifndef TA_SIMD_H
#define TA_SIMD_H

#include "cpu.h"

enum simd_flags {
    SIMD_ELEMENT = 1,   /* the second operand is lane `shift` of rm, in every lane */
    SIMD_IMMEDIATE = 2, /* the second operand is `imm`, in both halves */
    SIMD_UPPER = 4,     /* the narrow operand or result is the upper half of its register */
};

#define FPSR_QC (1u << 27)

/* Whether CPACR_EL1 lets the present exception level use the SIMD and floating-point registers. */
ALWAYS_INLINE bool fp_is_untrapped(const struct vcpu *cpu)
{
    unsigned needed = cpu->el ? 1 : 3;
    return (cpu->sys.cpacr >> CPACR_FPEN_SHIFT & needed) == needed;
}

void raise_fp_trap(struct vcpu *cpu);

/* CheckFPAdvSIMDEnabled64() (shared/functions/float): false if EL1 asked to see this instruction;
 * the exception was taken. */
ALWAYS_INLINE bool fp_enabled(struct vcpu *cpu)
{
    if (likely(fp_is_untrapped(cpu)))
        return true;
    raise_fp_trap(cpu);
    return false;
}

/* --- lanes ------------------------------------------------------------------------------ */

ALWAYS_INLINE uint64_t get_lane(const struct vector *vector, unsigned size, unsigned index)
{
    switch (size) {
    case 0:
        return vector->u8[index];
    case 1:
        return vector->u16[index];
    case 2:
        return vector->u32[index];
    default:
        return vector->u64[index];
    }
}

ALWAYS_INLINE void set_lane(struct vector *vector, unsigned size, unsigned index, uint64_t value)
{
    switch (size) {
    case 0:
        vector->u8[index] = (uint8_t)value;
        break;
    case 1:
        vector->u16[index] = (uint16_t)value;
        break;
    case 2:
        vector->u32[index] = (uint32_t)value;
        break;
    default:
        vector->u64[index] = value;
    }
}

/* The value in every lane of 64 bits. */
ALWAYS_INLINE uint64_t duplicate(uint64_t value, unsigned size)
{
    static const uint64_t ones[4] = {0x0101010101010101ull, 0x0001000100010001ull,
                                     0x0000000100000001ull, 1};
    uint64_t mask = size == 3 ? ~0ull : (1ull << (8u << size)) - 1;
    return (value & mask) * ones[size & 3];
}

ALWAYS_INLINE struct vector second_operand(const struct vcpu *cpu, const struct insn *insn,
                                           unsigned size)
{
    if (likely(!(insn->flags & (SIMD_ELEMENT | SIMD_IMMEDIATE))))
        return cpu->v[insn->rm];
    uint64_t half = insn->imm;
    if (insn->flags & SIMD_ELEMENT)
        half = duplicate(get_lane(&cpu->v[insn->rm], size, insn->shift), size);
    return (struct vector){.u64 = {half, half}};
}

/* Writes `bytes` (1, 2, 4, 8 or 16) of a register; all above them become zero. */
ALWAYS_INLINE void write_vector(struct vcpu *cpu, unsigned reg, const struct vector *value,
                                unsigned bytes)
{
    uint64_t low = bytes >= 8 ? ~0ull : (1ull << (8 * bytes)) - 1;
    cpu->v[reg].u64[0] = value->u64[0] & low;
    cpu->v[reg].u64[1] = bytes == 16 ? value->u64[1] : 0;
}

/* --- decoding --------------------------------------------------------------------------- */

ALWAYS_INLINE uint8_t vector_bytes(uint32_t word) /* by Q */
{
    return BIT(word, 30) ? 16 : 8;
}

/* VFPExpandImm() (shared/functions/float), for a format of so many bits. */
uint64_t expand_float(unsigned imm8, unsigned bits, unsigned exponent_bits);

bool decode_simd(uint32_t word, struct insn *insn);

/* The handlers of an operation, by the size of its lanes. */
typedef insn_handler *const simd_operation[4];

/* The major groups: each returns false for an unallocated encoding. When they are called, rd, rn
 * and rm are the numbers in bits 4:0, 9:5 and 20:16. */
bool decode_simd_load_store(uint32_t word, struct insn *insn);
bool decode_simd_copy(uint32_t word, struct insn *insn);
bool decode_simd_modified_immediate(uint32_t word, struct insn *insn);
bool decode_simd_extract(uint32_t word, struct insn *insn);
bool decode_simd_table(uint32_t word, struct insn *insn);
bool decode_simd_permute(uint32_t word, struct insn *insn);
bool decode_crypto_aes(uint32_t word, struct insn *insn);
bool decode_crypto_three(uint32_t word, struct insn *insn);
bool decode_crypto_two(uint32_t word, struct insn *insn);

/* Floating point: fp_scalar.c has all of 0x1E and 0x1F (scalar data processing, conversions, fused
 * multiply-add); fp_vector.c has the opcodes of these SIMD groups that are floating point, of
 * vectors and of scalars (bit 28). */
bool decode_fp_scalar(uint32_t word, struct insn *insn);
bool decode_fp_three_same(uint32_t word, struct insn *insn);      /* opcodes 11xxx */
bool decode_fp_three_same_half(uint32_t word, struct insn *insn); /* the FP16 group */
bool decode_fp_two_misc(uint32_t word, struct insn *insn); /* 011xx (size 1x), 1011x, 11xxx */
bool decode_fp_two_misc_half(uint32_t word, struct insn *insn);   /* the FP16 group */
bool decode_fp_across(uint32_t word, struct insn *insn);          /* 0110x, 0111x */
bool decode_fp_pairwise(uint32_t word, struct insn *insn);        /* of scalars: 011xx */
bool decode_fp_by_element(uint32_t word, struct insn *insn); /* 0001, 0101, 1001; U: 1001 */
bool decode_fp_shift(uint32_t word, struct insn *insn);           /* 11100, 11111: fixed point */

#endif
