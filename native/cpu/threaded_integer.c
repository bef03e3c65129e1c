/* Ops of data processing (DDI 0487 C4.1.92, C4.1.95). */
#include "threaded.h"

#define X(slot) cpu->x[insn->slot]

/* An op that only computes a register. */
#define COMPUTE(name, value)                                                                  \
    static OP(name)                                                                           \
    {                                                                                         \
        X(rd) = (value);                                                                      \
        NEXT();                                                                               \
    }

/* The handler touches nothing but registers: no flags, no pc, and takes no exception. */
static OP(op_compute)
{
    insn->run(cpu, insn);
    NEXT();
}

/* --- without flags --- */

COMPUTE(op_adr, pc_of(cpu, code) + insn->imm)
COMPUTE(op_adrp, cpu->fetch_page + insn->imm)
COMPUTE(op_move, insn->imm)
COMPUTE(op_movk64, (X(rn) & ~(0xffffull << insn->shift)) | insn->imm)
COMPUTE(op_add_imm64, X(rn) + insn->imm)
COMPUTE(op_add_imm32, (uint32_t)(X(rn) + insn->imm))
COMPUTE(op_sub_imm64, X(rn) - insn->imm)
COMPUTE(op_sub_imm32, (uint32_t)(X(rn) - insn->imm))
COMPUTE(op_and_imm, X(rn) & insn->imm)
COMPUTE(op_orr_imm64, X(rn) | insn->imm)
COMPUTE(op_orr_imm32, (uint32_t)(X(rn) | insn->imm))
COMPUTE(op_eor_imm64, X(rn) ^ insn->imm)
COMPUTE(op_move64, X(rm))
COMPUTE(op_move32, (uint32_t)X(rm))
COMPUTE(op_mul64, X(ra) + X(rn) * X(rm))
COMPUTE(op_mul32, (uint32_t)(X(ra) + X(rn) * X(rm)))
COMPUTE(op_extract64, insn->amount ? X(rm) >> insn->amount | X(rn) << (64 - insn->amount) : X(rm))
COMPUTE(op_extract32, (uint32_t)((X(rn) << 32 | (uint32_t)X(rm)) >> insn->amount))

/* UBFM and SBFM as the shifts that they are most often: LSL; and LSR, UBFX, UXTB, UXTH, ASR, SBFX,
 * SXTW. The latter go left so that the highest bit of the field is the register's, then right:
 * `ra` by how many, `rm` by how many. */
COMPUTE(op_shift_left64, X(rn) << insn->rm)
COMPUTE(op_shift_left32, (uint32_t)((uint32_t)X(rn) << insn->rm))
COMPUTE(op_field64, X(rn) << insn->ra >> insn->rm)
COMPUTE(op_signed_field64, (uint64_t)((int64_t)(X(rn) << insn->ra) >> insn->rm))
COMPUTE(op_signed_field32, (uint32_t)((int64_t)(X(rn) << insn->ra) >> insn->rm))

/* What the shifted register is. ROR, which logical instructions alone have, is by 1 at least. */
#define PLAIN64 X(rm)
#define LEFT64 (X(rm) << insn->amount)
#define RIGHT64 (X(rm) >> insn->amount)
#define SIGNED64 ((uint64_t)((int64_t)X(rm) >> insn->amount))
#define PLAIN32 ((uint32_t)X(rm))
#define LEFT32 ((uint32_t)X(rm) << insn->amount)
#define RIGHT32 ((uint32_t)X(rm) >> insn->amount)
#define SIGNED32 ((uint32_t)((int32_t)X(rm) >> insn->amount))
#define ROTATED64 (X(rm) >> insn->amount | X(rm) << (64 - insn->amount))
#define ROTATED32 ((uint32_t)X(rm) >> insn->amount | (uint32_t)X(rm) << (32 - insn->amount))

#define BINARY(name, operator)                                                                \
    COMPUTE(op_##name##_plain64, X(rn) operator PLAIN64)                                      \
    COMPUTE(op_##name##_left64, X(rn) operator LEFT64)                                        \
    COMPUTE(op_##name##_right64, X(rn) operator RIGHT64)                                      \
    COMPUTE(op_##name##_signed64, X(rn) operator SIGNED64)                                    \
    COMPUTE(op_##name##_plain32, (uint32_t)X(rn) operator PLAIN32)                            \
    COMPUTE(op_##name##_left32, (uint32_t)X(rn) operator LEFT32)                              \
    COMPUTE(op_##name##_right32, (uint32_t)X(rn) operator RIGHT32)                            \
    COMPUTE(op_##name##_signed32, (uint32_t)X(rn) operator SIGNED32)
#define LOGICAL(name, operator)                                                               \
    BINARY(name, operator)                                                                    \
    COMPUTE(op_##name##_rotated64, X(rn) operator ROTATED64)                                  \
    COMPUTE(op_##name##_rotated32, (uint32_t)X(rn) operator ROTATED32)
BINARY(add, +)
BINARY(sub, -)
LOGICAL(and, &)
LOGICAL(bic, &~)
LOGICAL(orr, |)
LOGICAL(orn, |~)
LOGICAL(eor, ^)
LOGICAL(eon, ^~)

/* UXTW and SXTW, the extensions of an index; others are op_compute's. */
COMPUTE(op_add_uxtw, X(rn) + ((uint64_t)(uint32_t)X(rm) << insn->amount))
COMPUTE(op_add_sxtw, X(rn) + ((uint64_t)(int64_t)(int32_t)X(rm) << insn->amount))
COMPUTE(op_add_uxtx, X(rn) + (X(rm) << insn->amount))
COMPUTE(op_sub_uxtx, X(rn) - (X(rm) << insn->amount))

COMPUTE(op_lslv64, X(rn) << (X(rm) & 63))
COMPUTE(op_lsrv64, X(rn) >> (X(rm) & 63))
COMPUTE(op_lslv32, (uint32_t)((uint32_t)X(rn) << (X(rm) & 31)))
COMPUTE(op_lsrv32, (uint32_t)X(rn) >> (X(rm) & 31))

/* --- with flags --- */

/* SUBS, CMP: nothing is computed of the flags but what they depend on. */
#define SUBTRACT(name, second)                                                                \
    static OP(name##64)                                                                       \
    {                                                                                         \
        a = X(rn);                                                                            \
        b = (second);                                                                         \
        flags = FLAGS_DIFFERENCE;                                                             \
        X(rd) = a - b;                                                                        \
        NEXT();                                                                               \
    }                                                                                         \
    static OP(name##32)                                                                       \
    {                                                                                         \
        uint32_t first = (uint32_t)X(rn), other = (uint32_t)(second);                         \
        a = (uint64_t)first << 32;                                                            \
        b = (uint64_t)other << 32;                                                            \
        flags = FLAGS_DIFFERENCE;                                                             \
        X(rd) = first - other;                                                                \
        NEXT();                                                                               \
    }
SUBTRACT(op_subs_imm, insn->imm)
SUBTRACT(op_subs_plain, X(rm))

#define ADD_WITH_FLAGS(name, width, second)                                                   \
    static OP(name)                                                                           \
    {                                                                                         \
        uint32_t nzcv;                                                                        \
        X(rd) = add_with_carry##width(X(rn), (second), 0, &nzcv);                             \
        a = nzcv;                                                                             \
        flags = FLAGS_PACKED;                                                                 \
        NEXT();                                                                               \
    }
ADD_WITH_FLAGS(op_adds_imm64, 64, insn->imm)
ADD_WITH_FLAGS(op_adds_imm32, 32, insn->imm)
ADD_WITH_FLAGS(op_adds_plain64, 64, X(rm))
ADD_WITH_FLAGS(op_adds_plain32, 32, X(rm))

#define AND_WITH_FLAGS(name, value, shift)                                                    \
    static OP(name)                                                                           \
    {                                                                                         \
        uint64_t result = (value);                                                            \
        a = result << (shift);                                                                \
        flags = FLAGS_LOGIC;                                                                  \
        X(rd) = result;                                                                       \
        NEXT();                                                                               \
    }
AND_WITH_FLAGS(op_ands_imm64, X(rn) & insn->imm, 0)
AND_WITH_FLAGS(op_ands_imm32, (uint32_t)(X(rn) & insn->imm), 32)
AND_WITH_FLAGS(op_ands_plain64, X(rn) & X(rm), 0)
AND_WITH_FLAGS(op_ands_plain32, (uint32_t)(X(rn) & X(rm)), 32)

/* Those whose handlers read or write the flags, but nothing else besides registers. */
static OP(op_compute_flags)
{
    cpu->nzcv = packed_flags(a, b, flags);
    insn->run(cpu, insn);
    a = cpu->nzcv;
    flags = FLAGS_PACKED;
    NEXT();
}

/* CCMP: the flags of a difference, or those that it brings. */
#define COMPARE(number)                                                                       \
    static OP(op_compare_##number)                                                            \
    {                                                                                         \
        uint64_t second = insn->amount ? insn->imm : X(rm);                                   \
        unsigned shift = insn->size ? 0 : 32;                                                 \
        if (condition_met(number, a, b, flags)) {                                             \
            a = X(rn) << shift;                                                               \
            b = second << shift;                                                              \
            flags = FLAGS_DIFFERENCE;                                                         \
        } else {                                                                              \
            a = BITS(insn->raw, 3, 0) << 28;                                                  \
            flags = FLAGS_PACKED;                                                             \
        }                                                                                     \
        NEXT();                                                                               \
    }

/* CSEL and its kin: `imm` is what the second register is combined with, `amount` is added. */
#define SELECT(number)                                                                        \
    static OP(op_select_##number)                                                             \
    {                                                                                         \
        uint64_t other = (X(rm) ^ insn->imm) + insn->amount;                                  \
        uint64_t value = condition_met(number, a, b, flags) ? X(rn) : other;                  \
        X(rd) = insn->size ? value : (uint32_t)value;                                         \
        NEXT();                                                                               \
    }
#define EACH_CONDITION(macro)                                                                 \
    macro(0) macro(1) macro(2) macro(3) macro(4) macro(5) macro(6) macro(7) macro(8) macro(9) \
        macro(10) macro(11) macro(12) macro(13) macro(14)
EACH_CONDITION(COMPARE)
EACH_CONDITION(SELECT)

/* AL and NV are the same. */
#define BY_CONDITION(name)                                                                    \
    {name##0, name##1, name##2,  name##3,  name##4,  name##5,  name##6,  name##7,             \
     name##8, name##9, name##10, name##11, name##12, name##13, name##14, name##14}
static threaded_op *const selects[16] = BY_CONDITION(op_select_);
static threaded_op *const compares[16] = BY_CONDITION(op_compare_);

/* --- which op --- */

static threaded_op *add_immediate_op(uint32_t word)
{
    static threaded_op *const ops[8] = {op_add_imm32, op_adds_imm32, op_sub_imm32, op_subs_imm32,
                                        op_add_imm64, op_adds_imm64, op_sub_imm64, op_subs_imm64};
    return ops[BITS(word, 31, 29)];
}

static threaded_op *logical_immediate_op(uint32_t word)
{
    static threaded_op *const ops[8] = {op_and_imm, op_orr_imm32, op_compute, op_ands_imm32,
                                        op_and_imm, op_orr_imm64, op_eor_imm64, op_ands_imm64};
    return ops[BITS(word, 31, 29)];
}

/* rm and ra are free: UBFM and SBFM read Rn alone. The handler reads amount and shift. */
static threaded_op *bitfield_op(struct insn *insn)
{
    unsigned rotate = insn->amount, last = insn->shift, width = insn->size ? 64 : 32;
    unsigned operation = BITS(insn->raw, 30, 29);
    if (operation == 1)
        return op_compute;
    if (last >= rotate) {
        insn->ra = (uint8_t)(63 - last);
        insn->rm = (uint8_t)(63 - last + rotate);
        return operation == 2 ? op_field64 : insn->size ? op_signed_field64 : op_signed_field32;
    }
    if (operation == 2 && last + 1 == rotate) {
        insn->rm = (uint8_t)(width - rotate);
        return insn->size ? op_shift_left64 : op_shift_left32;
    }
    return op_compute;
}

static threaded_op *immediate_op(struct insn *insn)
{
    uint32_t word = insn->raw;
    switch (BITS(word, 25, 23)) {
    case 0: case 1:
        return BIT(word, 31) ? op_adrp : op_adr;
    case 2:
        return add_immediate_op(word);
    case 4:
        return logical_immediate_op(word);
    case 5:
        if (BITS(word, 30, 29) != 3)
            return op_move;
        return insn->size ? op_movk64 : op_compute;
    case 6:
        return bitfield_op(insn);
    case 7:
        return BIT(word, 31) ? op_extract64 : op_extract32;
    default:
        return NULL; /* ADDG and SUBG read GCR_EL1 */
    }
}

#define LOGICAL_FORMS(name)                                                                   \
    {{op_##name##_plain32, op_##name##_left32, op_##name##_right32, op_##name##_signed32,     \
      op_##name##_rotated32},                                                                 \
     {op_##name##_plain64, op_##name##_left64, op_##name##_right64, op_##name##_signed64,     \
      op_##name##_rotated64}}
#define FORMS(name)                                                                           \
    {{op_##name##_plain32, op_##name##_left32, op_##name##_right32, op_##name##_signed32},    \
     {op_##name##_plain64, op_##name##_left64, op_##name##_right64, op_##name##_signed64}}

/* 0: not shifted; 1 to 3: LSL, LSR, ASR; 4: ROR. */
static unsigned shift_form(const struct insn *insn)
{
    return insn->amount ? insn->shift + 1u : 0;
}

static threaded_op *logical_op(struct insn *insn)
{
    static threaded_op *const ops[3][2][2][5] = {
        {LOGICAL_FORMS(and), LOGICAL_FORMS(bic)},
        {LOGICAL_FORMS(orr), LOGICAL_FORMS(orn)},
        {LOGICAL_FORMS(eor), LOGICAL_FORMS(eon)},
    };
    static threaded_op *const with_flags[2] = {op_ands_plain32, op_ands_plain64};
    uint32_t word = insn->raw;
    unsigned operation = BITS(word, 30, 29), form = shift_form(insn);
    bool inverted = BIT(word, 21);
    if (operation == 3)
        return form || inverted ? op_compute_flags : with_flags[insn->size];
    if (operation == 1 && !inverted && !form && BITS(word, 9, 5) == 31)
        return insn->size ? op_move64 : op_move32;
    return ops[operation][inverted][insn->size][form];
}

static threaded_op *add_shifted_op(const struct insn *insn)
{
    static threaded_op *const ops[2][2][4] = {FORMS(add), FORMS(sub)};
    static threaded_op *const with_flags[2][2] = {{op_adds_plain32, op_adds_plain64},
                                                  {op_subs_plain32, op_subs_plain64}};
    bool subtract = BIT(insn->raw, 30);
    unsigned form = shift_form(insn);
    if (BIT(insn->raw, 29))
        return form ? op_compute_flags : with_flags[subtract][insn->size];
    return ops[subtract][insn->size][form];
}

static threaded_op *add_extended_op(const struct insn *insn)
{
    if (BIT(insn->raw, 29))
        return op_compute_flags;
    if (!insn->size)
        return op_compute;
    if (insn->shift == 3 || insn->shift == 7)
        return BIT(insn->raw, 30) ? op_sub_uxtx : op_add_uxtx;
    if (BIT(insn->raw, 30))
        return op_compute;
    return insn->shift == 2 ? op_add_uxtw : insn->shift == 6 ? op_add_sxtw : op_compute;
}

static threaded_op *select_op(struct insn *insn)
{
    insn->imm = BIT(insn->raw, 30) ? ~0ull : 0;
    insn->amount = (uint8_t)BIT(insn->raw, 10);
    return selects[insn->shift];
}

static threaded_op *two_source_op(const struct insn *insn)
{
    unsigned opcode = BITS(insn->raw, 15, 10);
    switch (opcode) {
    case 8:
        return insn->size ? op_lslv64 : op_lslv32;
    case 9:
        return insn->size ? op_lsrv64 : op_lsrv32;
    case 2: case 3: case 10: case 11:
        return op_compute;
    default:
        return opcode >= 16 ? op_compute : NULL; /* CRC32; not IRG, GMI, SUBP */
    }
}

static threaded_op *register_op(struct insn *insn)
{
    uint32_t word = insn->raw;
    if (!BIT(word, 28)) {
        if (!BIT(word, 24))
            return logical_op(insn);
        return BIT(word, 21) ? add_extended_op(insn) : add_shifted_op(insn);
    }
    if (BIT(word, 24)) {
        bool is_add = !BITS(word, 23, 21) && !BIT(word, 15);
        return !is_add ? op_compute : insn->size ? op_mul64 : op_mul32;
    }
    switch (BITS(word, 23, 21)) {
    case 0:
        return op_compute_flags;
    case 2:
        return BIT(word, 30) ? compares[insn->shift] : op_compute_flags;
    case 4:
        return select_op(insn);
    case 6:
        return BIT(word, 30) ? op_compute : two_source_op(insn);
    default:
        return NULL;
    }
}

threaded_op *integer_op(struct insn *insn)
{
    return BITS(insn->raw, 28, 26) == 4 ? immediate_op(insn) : register_op(insn);
}
