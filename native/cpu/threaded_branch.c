/* Ops of branches, of hints and barriers, which do nothing, and of one MRS (DDI 0487 C4.1.93). A
 * branch within its page goes to the target's decoded instruction by the distance; others look for
 * the target's page. */
#include "threaded.h"

static OP(op_nothing)
{
    NEXT();
}

/* MRS of SP_EL0, where Linux has the present task. UNDEFINED where it is the present SP, as it always
 * is at EL0. */
static OP(op_mrs_sp_el0)
{
    if (unlikely(!cpu->sp_select))
        GO(op_call);
    cpu->x[insn->rd] = cpu->sp_el[0];
    NEXT();
}

static OP(op_b_near)
{
    NEXT_AT(insn->imm);
}
static OP(op_b)
{
    NEXT_TO(pc_of(cpu, code) + insn->imm);
}
static OP(op_bl_near)
{
    cpu->x[30] = pc_of(cpu, code) + 4;
    NEXT_AT(insn->imm);
}
static OP(op_bl)
{
    uint64_t pc = pc_of(cpu, code);
    cpu->x[30] = pc + 4;
    NEXT_TO(pc + insn->imm);
}

/* As branch_to() has it. */
ALWAYS_INLINE uint64_t branch_target(const struct vcpu *cpu, uint64_t target)
{
    unsigned half = BIT(target, 55);
    bool data_only = BIT(cpu->sys.tcr, TCR_TBID0_SHIFT + half);
    return cpu->tbi[half] && !data_only ? (uint64_t)sign_extend(target, 56) : target;
}

static OP(op_br)
{
    NEXT_TO(branch_target(cpu, cpu->x[insn->rn]));
}
static OP(op_blr)
{
    uint64_t target = cpu->x[insn->rn];
    cpu->x[30] = pc_of(cpu, code) + 4;
    NEXT_TO(branch_target(cpu, target));
}

#define CONDITIONAL(name, taken)                                                              \
    static OP(name##_near)                                                                    \
    {                                                                                         \
        if (taken)                                                                            \
            NEXT_AT(insn->imm);                                                               \
        NEXT();                                                                               \
    }                                                                                         \
    static OP(name)                                                                           \
    {                                                                                         \
        if (taken)                                                                            \
            NEXT_TO(pc_of(cpu, code) + insn->imm);                                            \
        NEXT();                                                                               \
    }

#define IF_CONDITION(number) CONDITIONAL(op_b_##number, condition_met(number, a, b, flags))
IF_CONDITION(0)
IF_CONDITION(1)
IF_CONDITION(2)
IF_CONDITION(3)
IF_CONDITION(4)
IF_CONDITION(5)
IF_CONDITION(6)
IF_CONDITION(7)
IF_CONDITION(8)
IF_CONDITION(9)
IF_CONDITION(10)
IF_CONDITION(11)
IF_CONDITION(12)
IF_CONDITION(13)

CONDITIONAL(op_cbz32, (uint32_t)cpu->x[insn->rd] == 0)
CONDITIONAL(op_cbnz32, (uint32_t)cpu->x[insn->rd] != 0)
CONDITIONAL(op_cbz64, cpu->x[insn->rd] == 0)
CONDITIONAL(op_cbnz64, cpu->x[insn->rd] != 0)
CONDITIONAL(op_tbz, !BIT(cpu->x[insn->rd], insn->amount))
CONDITIONAL(op_tbnz, BIT(cpu->x[insn->rd], insn->amount))

#define BOTH(name) {name, name##_near}
static threaded_op *const conditional[16][2] = {
    BOTH(op_b_0),  BOTH(op_b_1),  BOTH(op_b_2),  BOTH(op_b_3), BOTH(op_b_4), BOTH(op_b_5),
    BOTH(op_b_6),  BOTH(op_b_7),  BOTH(op_b_8),  BOTH(op_b_9), BOTH(op_b_10), BOTH(op_b_11),
    BOTH(op_b_12), BOTH(op_b_13), BOTH(op_b),    BOTH(op_b), /* AL, NV */
};
static threaded_op *const compare[2][2][2] = {{BOTH(op_cbz32), BOTH(op_cbnz32)},
                                              {BOTH(op_cbz64), BOTH(op_cbnz64)}};
static threaded_op *const test_bit[2][2] = {BOTH(op_tbz), BOTH(op_tbnz)};
static threaded_op *const always[2][2] = {BOTH(op_b), BOTH(op_bl)};

static threaded_op *register_op(uint32_t word)
{
    if (BITS(word, 20, 16) != 31 || BITS(word, 15, 10) || BITS(word, 4, 0))
        return NULL;
    switch (BITS(word, 24, 21)) {
    case 0: case 2:
        return op_br;
    case 1:
        return op_blr;
    default:
        return NULL;
    }
}

/* Of the hints and barriers, those that decode_hint() and decode_barrier() leave to run_nop(). */
static threaded_op *system_op(uint32_t word)
{
    unsigned op2 = BITS(word, 7, 5);
    if ((word & ~0x1fu) == 0xd5384100)
        return op_mrs_sp_el0;
    bool is_barrier = (word & 0xfffff01f) == 0xd503301f && op2 >= 4 && op2 <= 6;
    bool is_hint = (word & 0xfffff01f) == 0xd503201f && (BITS(word, 11, 5) == 0 ||
                                                         BITS(word, 11, 5) > 3);
    return is_barrier || is_hint ? op_nothing : NULL;
}

threaded_op *branch_op(struct insn *insn, unsigned index)
{
    uint32_t word = insn->raw;
    uint64_t target = index * 4 + insn->imm;
    bool near = target < PAGE_BYTES;
    switch (BITS(word, 31, 29)) {
    case 0: case 4:
        return always[BIT(word, 31)][near];
    case 1: case 5:
        return BIT(word, 25) ? test_bit[BIT(word, 24)][near]
                             : compare[BIT(word, 31)][BIT(word, 24)][near];
    case 2:
        return conditional[BITS(word, 3, 0)][near];
    case 6:
        return BIT(word, 25) ? register_op(word) : system_op(word);
    default:
        return NULL;
    }
}
