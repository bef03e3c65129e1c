/* Data processing -- register (DDI 0487 C4.1.95). */
#include "cpu.h"

/* Bit n of an entry: whether the condition holds for NZCV = n. */
const uint16_t condition_table[16] = {
    0xf0f0, 0x0f0f, /* EQ Z, NE */
    0xcccc, 0x3333, /* CS C, CC */
    0xff00, 0x00ff, /* MI N, PL */
    0xaaaa, 0x5555, /* VS V, VC */
    0x0c0c, 0xf3f3, /* HI C && !Z, LS */
    0xaa55, 0x55aa, /* GE N == V, LT */
    0x0a05, 0xf5fa, /* GT !Z && N == V, LE */
    0xffff, 0xffff, /* AL, NV */
};

static uint64_t shifted(uint64_t value, unsigned type, unsigned amount, bool wide)
{
    if (!wide)
        value = (uint32_t)value;
    switch (type) {
    case 0:
        value <<= amount;
        break;
    case 1:
        value >>= amount;
        break;
    case 2:
        value = wide ? (uint64_t)((int64_t)value >> amount)
                     : (uint64_t)((int64_t)(int32_t)value >> amount);
        break;
    default:
        if (amount)
            value = wide ? value >> amount | value << (64 - amount)
                         : value >> amount | value << (32 - amount);
    }
    return wide ? value : (uint32_t)value;
}

/* ExtendReg() (shared/functions): option is UXTB..SXTX. */
static uint64_t extended(uint64_t value, unsigned option, unsigned amount)
{
    unsigned bits = 8u << (option & 3);
    uint64_t part = bits == 64 ? value
                    : option & 4 ? (uint64_t)sign_extend(value, bits)
                                 : value & ((1ull << bits) - 1);
    return part << amount;
}

static uint64_t operand2(const struct vcpu *cpu, const struct insn *insn)
{
    return shifted(cpu->x[insn->rm], insn->shift, insn->amount, insn->size);
}

static void logic_flags(struct vcpu *cpu, uint64_t value, bool wide)
{
    cpu->nzcv = (uint32_t)BIT(value, wide ? 63 : 31) << 31 | (uint32_t)(value == 0) << 30;
}

static void run_logical(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t a = cpu->x[insn->rn], b = operand2(cpu, insn), value;
    if (BIT(insn->raw, 21))
        b = ~b;
    unsigned operation = BITS(insn->raw, 30, 29);
    value = operation == 1 ? a | b : operation == 2 ? a ^ b : a & b;
    if (!insn->size)
        value = (uint32_t)value;
    if (operation == 3)
        logic_flags(cpu, value, insn->size);
    cpu->x[insn->rd] = value;
}

/* MOV (register): by far the most frequent of them. */
static void run_move_register(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = insn->size ? cpu->x[insn->rm] : (uint32_t)cpu->x[insn->rm];
}

static bool decode_logical_shifted(uint32_t word, struct insn *insn)
{
    insn->size = BIT(word, 31);
    insn->amount = (uint8_t)BITS(word, 15, 10);
    insn->shift = (uint8_t)BITS(word, 23, 22);
    if (!insn->size && insn->amount > 31)
        return false;
    bool is_move = BITS(word, 30, 29) == 1 && !BIT(word, 21) && BITS(word, 9, 5) == 31 &&
                   !insn->amount;
    insn->run = is_move ? run_move_register : run_logical;
    return true;
}

static void add_or_subtract(struct vcpu *cpu, const struct insn *insn, uint64_t b)
{
    uint64_t a = cpu->x[insn->rn];
    bool subtract = BIT(insn->raw, 30), set_flags = BIT(insn->raw, 29);
    uint32_t flags;
    uint64_t sum = insn->size ? add_with_carry64(a, subtract ? ~b : b, subtract, &flags)
                              : add_with_carry32(a, subtract ? ~b : b, subtract, &flags);
    if (set_flags)
        cpu->nzcv = flags;
    cpu->x[insn->rd] = sum;
}

static void run_add_shifted(struct vcpu *cpu, const struct insn *insn)
{
    add_or_subtract(cpu, insn, operand2(cpu, insn));
}
static void run_add_extended(struct vcpu *cpu, const struct insn *insn)
{
    add_or_subtract(cpu, insn, extended(cpu->x[insn->rm], insn->shift, insn->amount));
}
static void run_add_plain64(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = cpu->x[insn->rn] + cpu->x[insn->rm];
}

static bool decode_add_shifted(uint32_t word, struct insn *insn)
{
    insn->size = BIT(word, 31);
    insn->amount = (uint8_t)BITS(word, 15, 10);
    insn->shift = (uint8_t)BITS(word, 23, 22);
    if (insn->shift == 3 || (!insn->size && insn->amount > 31))
        return false;
    bool is_plain_add = BITS(word, 31, 29) == 4 && !insn->amount;
    insn->run = is_plain_add ? run_add_plain64 : run_add_shifted;
    return true;
}

static bool decode_add_extended(uint32_t word, struct insn *insn)
{
    insn->size = BIT(word, 31);
    insn->amount = (uint8_t)BITS(word, 12, 10);
    insn->shift = (uint8_t)BITS(word, 15, 13);
    if (BITS(word, 23, 22) || insn->amount > 4)
        return false;
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    if (!BIT(word, 29))
        insn->rd = slot_or_sp(BITS(word, 4, 0));
    insn->run = run_add_extended;
    return true;
}

static void run_adc(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t a = cpu->x[insn->rn], b = cpu->x[insn->rm];
    unsigned carry = cpu->nzcv >> 29 & 1;
    uint32_t flags;
    if (BIT(insn->raw, 30))
        b = ~b;
    cpu->x[insn->rd] = insn->size ? add_with_carry64(a, b, carry, &flags)
                                  : add_with_carry32(a, b, carry, &flags);
    if (BIT(insn->raw, 29))
        cpu->nzcv = flags;
}

static void run_rmif(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rn];
    uint32_t mask = BITS(insn->raw, 3, 0) << 28;
    uint32_t flags = (uint32_t)shifted(value, 3, insn->amount, true) << 28;
    cpu->nzcv = (cpu->nzcv & ~mask) | (flags & mask);
}

static void run_setf(struct vcpu *cpu, const struct insn *insn)
{
    unsigned msb = BIT(insn->raw, 14) ? 15 : 7;
    uint64_t value = cpu->x[insn->rn];
    uint32_t carry = cpu->nzcv & (1u << 29);
    cpu->nzcv = (uint32_t)BIT(value, msb) << 31 |
                (uint32_t)((value & ((1ull << (msb + 1)) - 1)) == 0) << 30 | carry |
                (uint32_t)(BIT(value, msb + 1) ^ BIT(value, msb)) << 28;
}

static bool decode_with_carry(uint32_t word, struct insn *insn)
{
    insn->size = BIT(word, 31);
    if (BITS(word, 15, 10) == 0) {
        insn->run = run_adc;
        return true;
    }
    if (BITS(word, 14, 10) == 1 && BITS(word, 31, 29) == 5 && !BIT(word, 4)) {
        insn->amount = (uint8_t)BITS(word, 20, 15);
        insn->run = run_rmif;
        return true;
    }
    if (BITS(word, 13, 10) == 2 && BITS(word, 31, 29) == 1 && !BIT(word, 15) &&
        !BITS(word, 20, 16) && BITS(word, 4, 0) == 0xd) {
        insn->run = run_setf;
        return true;
    }
    return false;
}

static void run_conditional_compare(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t a = cpu->x[insn->rn], b = insn->amount ? insn->imm : cpu->x[insn->rm];
    bool subtract = BIT(insn->raw, 30);
    if (!condition_holds(cpu, insn->shift))
        cpu->nzcv = BITS(insn->raw, 3, 0) << 28;
    else if (insn->size)
        add_with_carry64(a, subtract ? ~b : b, subtract, &cpu->nzcv);
    else
        add_with_carry32(a, subtract ? ~b : b, subtract, &cpu->nzcv);
}

static bool decode_conditional_compare(uint32_t word, struct insn *insn)
{
    if (BIT(word, 10) || BIT(word, 4) || !BIT(word, 29))
        return false;
    insn->size = BIT(word, 31);
    insn->shift = (uint8_t)BITS(word, 15, 12); /* condition */
    insn->amount = BIT(word, 11);              /* immediate form */
    insn->imm = BITS(word, 20, 16);
    insn->run = run_conditional_compare;
    return true;
}

static void run_conditional_select(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (condition_holds(cpu, insn->shift)) {
        value = cpu->x[insn->rn];
    } else {
        value = cpu->x[insn->rm];
        if (BIT(insn->raw, 30))
            value = ~value;
        if (BIT(insn->raw, 10))
            value++;
    }
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}

static bool decode_conditional_select(uint32_t word, struct insn *insn)
{
    if (BIT(word, 29) || BIT(word, 11))
        return false;
    insn->size = BIT(word, 31);
    insn->shift = (uint8_t)BITS(word, 15, 12);
    insn->run = run_conditional_select;
    return true;
}

static void run_rbit(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = __builtin_bitreverse64(cpu->x[insn->rn]);
    cpu->x[insn->rd] = insn->size ? value : value >> 32;
}

/* REV16, REV32 and REV: the bytes of each group of 1 << amount bytes change places. */
static void run_rev(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rn];
    value = (value & 0x00ff00ff00ff00ffull) << 8 | (value >> 8 & 0x00ff00ff00ff00ffull);
    if (insn->amount >= 2)
        value = (value & 0x0000ffff0000ffffull) << 16 | (value >> 16 & 0x0000ffff0000ffffull);
    if (insn->amount >= 3)
        value = value << 32 | value >> 32;
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}

static uint64_t leading_zeros(uint64_t value, bool wide)
{
    if (wide)
        return value ? (uint64_t)__builtin_clzll(value) : 64;
    return (uint32_t)value ? (uint64_t)__builtin_clz((uint32_t)value) : 32;
}

static void run_clz(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = leading_zeros(cpu->x[insn->rn], insn->size);
}

static void run_cls(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rn];
    value = insn->size ? value ^ (uint64_t)((int64_t)value >> 63)
                       : (uint32_t)value ^ (uint32_t)((int32_t)value >> 31);
    cpu->x[insn->rd] = leading_zeros(value, insn->size) - 1;
}

static bool decode_one_source(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 10);
    insn->size = BIT(word, 31);
    if (BIT(word, 29) || BITS(word, 20, 16) || opcode > 5 || (opcode == 3 && !insn->size))
        return false;
    insn->amount = (uint8_t)opcode;
    insn->run = opcode == 0 ? run_rbit : opcode == 4 ? run_clz : opcode == 5 ? run_cls : run_rev;
    return true;
}

static void run_udiv(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t a = cpu->x[insn->rn], b = cpu->x[insn->rm];
    if (!insn->size) {
        a = (uint32_t)a;
        b = (uint32_t)b;
    }
    cpu->x[insn->rd] = b ? a / b : 0;
}

static void run_sdiv(struct vcpu *cpu, const struct insn *insn)
{
    int64_t a = (int64_t)cpu->x[insn->rn], b = (int64_t)cpu->x[insn->rm];
    if (!insn->size) {
        a = (int32_t)a;
        b = (int32_t)b;
    }
    /* The most negative number divided by -1 wraps; in C it would be undefined. */
    uint64_t value = b == 0 ? 0 : b == -1 ? 0 - (uint64_t)a : (uint64_t)(a / b);
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}

static void run_shift_variable(struct vcpu *cpu, const struct insn *insn)
{
    unsigned amount = (unsigned)cpu->x[insn->rm] & (insn->size ? 63 : 31);
    cpu->x[insn->rd] = shifted(cpu->x[insn->rn], insn->shift, amount, insn->size);
}

static void run_crc32(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t polynomial = insn->shift ? 0x82f63b78u : 0xedb88320u; /* bit-reversed */
    uint32_t crc = (uint32_t)cpu->x[insn->rn];
    uint64_t value = cpu->x[insn->rm];
    for (unsigned byte = 0; byte < 1u << insn->amount; byte++, value >>= 8) {
        crc ^= (uint8_t)value;
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? polynomial : 0);
    }
    cpu->x[insn->rd] = crc;
}

static bool decode_two_source(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 10);
    insn->size = BIT(word, 31);
    if (opcode == 0 || opcode == 4 || opcode == 5)
        return decode_tag_two_source(word, insn);
    if (BIT(word, 29))
        return false;
    if (opcode == 2 || opcode == 3) {
        insn->run = opcode == 2 ? run_udiv : run_sdiv;
        return true;
    }
    if (opcode >= 8 && opcode <= 11) {
        insn->shift = opcode & 3;
        insn->run = run_shift_variable;
        return true;
    }
    if (opcode >= 16 && opcode <= 23) {
        insn->amount = opcode & 3;
        insn->shift = opcode >> 2 & 1;
        insn->run = run_crc32;
        return (insn->amount == 3) == (insn->size != 0);
    }
    return false;
}

static void run_madd(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t product = cpu->x[insn->rn] * cpu->x[insn->rm], a = cpu->x[insn->ra];
    uint64_t value = BIT(insn->raw, 15) ? a - product : a + product;
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}
static void run_smaddl(struct vcpu *cpu, const struct insn *insn)
{
    int64_t product = (int64_t)(int32_t)cpu->x[insn->rn] * (int32_t)cpu->x[insn->rm];
    uint64_t a = cpu->x[insn->ra];
    cpu->x[insn->rd] = BIT(insn->raw, 15) ? a - (uint64_t)product : a + (uint64_t)product;
}
static void run_umaddl(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t product = (uint64_t)(uint32_t)cpu->x[insn->rn] * (uint32_t)cpu->x[insn->rm];
    uint64_t a = cpu->x[insn->ra];
    cpu->x[insn->rd] = BIT(insn->raw, 15) ? a - product : a + product;
}
static void run_smulh(struct vcpu *cpu, const struct insn *insn)
{
    __int128 product = (__int128)(int64_t)cpu->x[insn->rn] * (int64_t)cpu->x[insn->rm];
    cpu->x[insn->rd] = (uint64_t)(product >> 64);
}
static void run_umulh(struct vcpu *cpu, const struct insn *insn)
{
    unsigned __int128 product = (unsigned __int128)cpu->x[insn->rn] * cpu->x[insn->rm];
    cpu->x[insn->rd] = (uint64_t)(product >> 64);
}

static bool decode_three_source(uint32_t word, struct insn *insn)
{
    unsigned operation = BITS(word, 23, 21);
    bool subtract = BIT(word, 15);
    insn->size = BIT(word, 31);
    insn->ra = slot_source(BITS(word, 14, 10));
    if (BITS(word, 30, 29) || (operation && !insn->size))
        return false;
    switch (operation) {
    case 0:
        insn->run = run_madd;
        return true;
    case 1:
        insn->run = run_smaddl;
        return true;
    case 2:
        insn->run = run_smulh;
        return !subtract;
    case 5:
        insn->run = run_umaddl;
        return true;
    case 6:
        insn->run = run_umulh;
        return !subtract;
    default:
        return false;
    }
}

bool decode_data_processing_register(uint32_t word, struct insn *insn)
{
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->rn = slot_source(BITS(word, 9, 5));
    insn->rm = slot_source(BITS(word, 20, 16));
    if (!BIT(word, 28)) {
        if (!BIT(word, 24))
            return decode_logical_shifted(word, insn);
        return BIT(word, 21) ? decode_add_extended(word, insn) : decode_add_shifted(word, insn);
    }
    if (BIT(word, 24))
        return decode_three_source(word, insn);
    switch (BITS(word, 23, 21)) {
    case 0:
        return decode_with_carry(word, insn);
    case 2:
        return decode_conditional_compare(word, insn);
    case 4:
        return decode_conditional_select(word, insn);
    case 6:
        return BIT(word, 30) ? decode_one_source(word, insn) : decode_two_source(word, insn);
    default:
        return false;
    }
}
