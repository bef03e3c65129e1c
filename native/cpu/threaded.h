/* Threaded code: what the quick half of the interpreter is made of.
 *
 * An op carries out one instruction and then jumps to the op of the next one, which the compiler
 * makes a jump indeed (musttail), with the interpreter's state in registers (preserve_none). So
 * there is no loop, no return, and nothing to store between two instructions:
 *
 *   insn   the decoded instruction; those of a page lie in one array, so the next is insn + 1
 *   code   the instruction's word in the host; from it the pc is computed where it is needed
 *   left   how many instructions the slice may still execute, this one included
 *   a, b   what the flags will be computed from, if anybody asks; `flags` says how
 *
 * An op does the frequent case of its instruction alone. Whatever is rare in it (a TLB miss, a tag
 * that differs, an unaligned address) and all instructions without an op go to op_call(), which
 * calls the handler that the plain interpreter has for it, with all state in place. An op must not
 * have changed anything before it decides to do that. */
#ifndef TA_THREADED_H
#define TA_THREADED_H

#include "memory.h"

/* What a and b mean. */
enum lazy_flags {
    FLAGS_PACKED,     /* a is NZCV as vcpu.nzcv has it */
    FLAGS_DIFFERENCE, /* those of a - b in 64 bits; of 32 bits, the operands are shifted by 32 */
    FLAGS_LOGIC,      /* N and Z of a, C and V clear; shifted likewise */
};

#define OP(name)                                                                              \
    __attribute__((preserve_none)) void name(struct vcpu *cpu, struct insn *insn,             \
                                             const uint8_t *code, uint64_t left, uint64_t a,  \
                                             uint64_t b, uint64_t flags)

#define GO(op) __attribute__((musttail)) return (op)(cpu, insn, code, left, a, b, flags)

/* Goes on at insn and code, which are the next instruction's. That the word in memory is still the
 * one that was decoded is asked for each instruction: see the head of threaded.c. */
#define DISPATCH()                                                                            \
    do {                                                                                      \
        if (unlikely(insn->raw != word_at(code)))                                             \
            GO(op_decode);                                                                    \
        GO(insn->op);                                                                         \
    } while (0)

/* Ends an op: on to the instruction `bytes` of code behind (or before) this one, in this page. */
#define NEXT_AT(bytes)                                                                        \
    do {                                                                                      \
        int64_t distance = (int64_t)(bytes);                                                  \
        code += distance;                                                                     \
        insn = (struct insn *)((uint8_t *)insn + distance * (int64_t)(sizeof *insn / 4));     \
        if (unlikely(!--left))                                                                \
            GO(op_leave);                                                                     \
        DISPATCH();                                                                           \
    } while (0)
#define NEXT() NEXT_AT(4)

/* Ends an op that branches to any address. */
#define NEXT_TO(address)                                                                      \
    do {                                                                                      \
        uint64_t to = (address);                                                              \
        left--;                                                                               \
        if (unlikely((to & (PAGE_MASK | 3)) != cpu->fetch_page)) {                            \
            cpu->pc = to;                                                                     \
            GO(op_other_page);                                                                \
        }                                                                                     \
        code = cpu->fetch_data + (to & (PAGE_BYTES - 1));                                     \
        insn = cpu->fetch_insns + (to & (PAGE_BYTES - 1)) / 4;                                \
        if (unlikely(!left))                                                                  \
            GO(op_leave);                                                                     \
        DISPATCH();                                                                           \
    } while (0)

OP(op_call);       /* by the plain interpreter's handler */
OP(op_decode);     /* memory holds another word than the one decoded: decodes it */
OP(op_leave);      /* the slice ends before this instruction */
OP(op_other_page); /* goes on at cpu->pc, which is not in the page of the last instruction */

ALWAYS_INLINE uint32_t word_at(const uint8_t *code)
{
    uint32_t word;
    memcpy(&word, code, 4);
    return word;
}

ALWAYS_INLINE uint64_t pc_of(const struct vcpu *cpu, const uint8_t *code)
{
    return cpu->fetch_page + (uint64_t)(code - cpu->fetch_data);
}

/* The op for a decoded instruction that is the page's `index`-th; NULL if the group has none. It
 * may prepare fields of the instruction that its handler does not read. */
threaded_op *integer_op(struct insn *insn);
threaded_op *branch_op(struct insn *insn, unsigned index);
threaded_op *memory_op(struct insn *insn);

/* --- flags --- */

ALWAYS_INLINE uint32_t packed_flags(uint64_t a, uint64_t b, uint64_t flags)
{
    uint32_t nzcv;
    if (flags == FLAGS_PACKED)
        return (uint32_t)a;
    if (flags == FLAGS_LOGIC)
        return (uint32_t)(a >> 63) << 31 | (uint32_t)(a == 0) << 30;
    add_with_carry64(a, ~b, 1, &nzcv);
    return nzcv;
}

/* ConditionHolds(), from what the flags would be computed from. Inlined with a constant. */
ALWAYS_INLINE bool difference_meets(unsigned condition, uint64_t a, uint64_t b)
{
    int64_t x = (int64_t)a, y = (int64_t)b, unused;
    switch (condition >> 1) {
    case 0:
        return a == b;
    case 1:
        return a >= b;
    case 2:
        return (int64_t)(a - b) < 0;
    case 3:
        return __builtin_sub_overflow(x, y, &unused);
    case 4:
        return a > b;
    case 5:
        return x >= y;
    case 6:
        return x > y;
    default:
        return true;
    }
}

ALWAYS_INLINE bool logic_meets(unsigned condition, uint64_t a)
{
    switch (condition >> 1) {
    case 0:
        return a == 0;
    case 2:
        return (int64_t)a < 0;
    case 5:
        return (int64_t)a >= 0;
    case 6:
        return (int64_t)a > 0;
    case 7:
        return true;
    default:
        return false; /* C and V are clear */
    }
}

ALWAYS_INLINE bool condition_met(unsigned condition, uint64_t a, uint64_t b, uint64_t flags)
{
    bool odd = condition & 1; /* AL and NV, which are the same, are no case of a choice */
    if (likely(flags == FLAGS_DIFFERENCE))
        return difference_meets(condition, a, b) != odd;
    if (flags == FLAGS_LOGIC)
        return logic_meets(condition, a) != odd;
    return condition_table[condition] >> ((uint32_t)a >> 28) & 1;
}

#endif
