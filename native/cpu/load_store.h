/* What loads and stores of general-purpose and of SIMD&FP registers share. */
#ifndef TA_LOAD_STORE_H
#define TA_LOAD_STORE_H

#include "memory.h"

/* insn->shift: where the address comes from. */
enum { ADDRESS_OFFSET, ADDRESS_POST, ADDRESS_PRE };

/* insn->shift of the pairs, by bits 24:23. */
static const uint8_t pair_addresses[4] = {ADDRESS_OFFSET, ADDRESS_POST, ADDRESS_OFFSET,
                                          ADDRESS_PRE};

ALWAYS_INLINE uint64_t base_address(const struct vcpu *cpu, const struct insn *insn)
{
    return cpu->x[insn->rn] + (insn->shift == ADDRESS_POST ? 0 : insn->imm);
}

/* Base register and extended register, here shifted by insn->shift. */
ALWAYS_INLINE uint64_t register_offset(const struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rm];
    unsigned option = BITS(insn->raw, 15, 13);
    if (option == 2)
        value = (uint32_t)value;
    else if (option == 6)
        value = (uint64_t)(int32_t)value;
    return cpu->x[insn->rn] + (value << insn->shift);
}

/* [SP, #imm] without write-back is Tag Unchecked (D10.4). */
ALWAYS_INLINE uint8_t unchecked_if_stack(const struct insn *insn)
{
    return insn->rn == SLOT_SP ? ACCESS_UNCHECKED : 0;
}

#endif
