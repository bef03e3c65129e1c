/* Data processing -- immediate (DDI 0487 C4.1.92). */
#include "cpu.h"

static void run_adr(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = cpu->pc + insn->imm;
}

static void run_adrp(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = (cpu->pc & PAGE_MASK) + insn->imm;
}

static bool decode_pc_relative(uint32_t word, struct insn *insn)
{
    uint64_t imm = (uint64_t)BITS(word, 23, 5) << 2 | BITS(word, 30, 29);
    bool page = BIT(word, 31);
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->imm = (uint64_t)sign_extend(imm, 21) << (page ? PAGE_SHIFT : 0);
    insn->run = page ? run_adrp : run_adr;
    return true;
}

static void run_add64(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = cpu->x[insn->rn] + insn->imm;
}
static void run_add32(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = (uint32_t)(cpu->x[insn->rn] + insn->imm);
}
static void run_sub64(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = cpu->x[insn->rn] - insn->imm;
}
static void run_sub32(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = (uint32_t)(cpu->x[insn->rn] - insn->imm);
}
static void run_adds64(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = add_with_carry64(cpu->x[insn->rn], insn->imm, 0, &cpu->nzcv);
}
static void run_adds32(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = add_with_carry32(cpu->x[insn->rn], insn->imm, 0, &cpu->nzcv);
}
static void run_subs64(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = add_with_carry64(cpu->x[insn->rn], ~insn->imm, 1, &cpu->nzcv);
}
static void run_subs32(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = add_with_carry32(cpu->x[insn->rn], ~insn->imm, 1, &cpu->nzcv);
}

static bool decode_add_subtract(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[8] = {run_add32, run_adds32, run_sub32, run_subs32,
                                              run_add64, run_adds64, run_sub64, run_subs64};
    bool set_flags = BIT(word, 29);
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->rd = set_flags ? slot_target(BITS(word, 4, 0)) : slot_or_sp(BITS(word, 4, 0));
    insn->imm = (uint64_t)BITS(word, 21, 10) << (BIT(word, 22) ? 12 : 0);
    insn->run = handlers[BITS(word, 31, 29)];
    return true;
}

static uint64_t rotate_right(uint64_t value, unsigned amount, unsigned width)
{
    amount %= width;
    return amount ? value >> amount | value << (width - amount) : value;
}

static uint64_t ones(unsigned count)
{
    return count >= 64 ? ~0ull : (1ull << count) - 1;
}

/* DecodeBitMasks() (shared/functions/common); false for the reserved combinations. */
static bool decode_bit_masks(unsigned n, unsigned imms, unsigned immr, bool immediate,
                             uint64_t *wmask, uint64_t *tmask)
{
    unsigned selector = n << 6 | (~imms & 0x3f);
    if (selector < 2)
        return false;
    unsigned length = 31 - (unsigned)__builtin_clz(selector);
    unsigned levels = (1u << length) - 1, size = 1u << length;
    unsigned s = imms & levels, r = immr & levels;
    if (immediate && s == levels)
        return false;
    uint64_t w = ones(s + 1), t = ones(((s - r) & levels) + 1);
    w = size == 64 ? rotate_right(w, r, 64) : rotate_right(w, r, size) & ones(size);
    for (unsigned width = size; width < 64; width *= 2) {
        w |= w << width;
        t |= t << width;
    }
    *wmask = w;
    *tmask = t;
    return true;
}

static void run_and(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = cpu->x[insn->rn] & insn->imm;
}
static void run_orr(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rn] | insn->imm;
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}
static void run_eor(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rn] ^ insn->imm;
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}
static void run_ands(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value = cpu->x[insn->rn] & insn->imm;
    unsigned sign = insn->size ? 63 : 31;
    cpu->nzcv = (uint32_t)BIT(value, sign) << 31 | (uint32_t)(value == 0) << 30;
    cpu->x[insn->rd] = value;
}

static bool decode_logical(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[4] = {run_and, run_orr, run_eor, run_ands};
    bool wide = BIT(word, 31);
    unsigned operation = BITS(word, 30, 29);
    uint64_t unused;
    if (!wide && BIT(word, 22))
        return false;
    if (!decode_bit_masks(BIT(word, 22), BITS(word, 15, 10), BITS(word, 21, 16), true,
                          &insn->imm, &unused))
        return false;
    if (!wide)
        insn->imm = (uint32_t)insn->imm;
    insn->size = wide;
    insn->rn = slot_source(BITS(word, 9, 5));
    insn->rd = operation == 3 ? slot_target(BITS(word, 4, 0)) : slot_or_sp(BITS(word, 4, 0));
    insn->run = handlers[operation];
    return true;
}

static void run_move(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = insn->imm;
}
static void run_movk(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t kept = cpu->x[insn->rn] & ~(0xffffull << insn->shift);
    uint64_t value = kept | insn->imm;
    cpu->x[insn->rd] = insn->size ? value : (uint32_t)value;
}

static bool decode_move_wide(uint32_t word, struct insn *insn)
{
    bool wide = BIT(word, 31);
    unsigned shift = BITS(word, 22, 21) * 16, operation = BITS(word, 30, 29);
    uint64_t imm = (uint64_t)BITS(word, 20, 5) << shift;
    if (operation == 1 || (!wide && shift >= 32))
        return false;
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->rn = slot_source(BITS(word, 4, 0));
    insn->shift = (uint8_t)shift;
    insn->size = wide;
    insn->imm = operation == 0 ? ~imm : imm;
    if (operation != 3 && !wide)
        insn->imm = (uint32_t)insn->imm;
    insn->run = operation == 3 ? run_movk : run_move;
    return true;
}

/* imm holds wmask; amount is immr, shift is imms; the top mask is made again from them. */
static uint64_t bitfield_bottom(const struct vcpu *cpu, const struct insn *insn, uint64_t kept)
{
    unsigned width = insn->size ? 64 : 32;
    uint64_t source = insn->size ? cpu->x[insn->rn] : (uint32_t)cpu->x[insn->rn];
    uint64_t rotated = rotate_right(source, insn->amount, width);
    return (kept & ~insn->imm) | (rotated & insn->imm);
}

static uint64_t bitfield_top_mask(const struct insn *insn)
{
    unsigned levels = insn->size ? 63 : 31;
    return ones((((unsigned)insn->shift - insn->amount) & levels) + 1);
}

static uint64_t narrow(const struct insn *insn, uint64_t value)
{
    return insn->size ? value : (uint32_t)value;
}

static void run_sbfm(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t top = BIT(cpu->x[insn->rn], insn->shift) ? ~0ull : 0;
    uint64_t tmask = bitfield_top_mask(insn), bottom = bitfield_bottom(cpu, insn, 0);
    cpu->x[insn->rd] = narrow(insn, (top & ~tmask) | (bottom & tmask));
}
static void run_bfm(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t old = cpu->x[insn->rm], tmask = bitfield_top_mask(insn);
    uint64_t bottom = bitfield_bottom(cpu, insn, old);
    cpu->x[insn->rd] = narrow(insn, (old & ~tmask) | (bottom & tmask));
}
static void run_ubfm(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t bottom = bitfield_bottom(cpu, insn, 0);
    cpu->x[insn->rd] = narrow(insn, bottom & bitfield_top_mask(insn));
}

static bool decode_bitfield(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[4] = {run_sbfm, run_bfm, run_ubfm, NULL};
    bool wide = BIT(word, 31);
    unsigned immr = BITS(word, 21, 16), imms = BITS(word, 15, 10);
    uint64_t tmask;
    insn->run = handlers[BITS(word, 30, 29)];
    if (!insn->run || BIT(word, 22) != wide || (!wide && (immr > 31 || imms > 31)))
        return false;
    if (!decode_bit_masks(wide, imms, immr, false, &insn->imm, &tmask))
        return false;
    insn->amount = (uint8_t)immr;
    insn->shift = (uint8_t)imms;
    insn->size = wide;
    insn->rn = slot_source(BITS(word, 9, 5));
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->rm = slot_source(BITS(word, 4, 0)); /* what BFM keeps of Rd */
    return true;
}

static void run_extr64(struct vcpu *cpu, const struct insn *insn)
{
    unsigned lsb = insn->amount;
    uint64_t high = cpu->x[insn->rn], low = cpu->x[insn->rm];
    cpu->x[insn->rd] = lsb ? low >> lsb | high << (64 - lsb) : low;
}
static void run_extr32(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t both = cpu->x[insn->rn] << 32 | (uint32_t)cpu->x[insn->rm];
    cpu->x[insn->rd] = (uint32_t)(both >> insn->amount);
}

static bool decode_extract(uint32_t word, struct insn *insn)
{
    bool wide = BIT(word, 31);
    insn->amount = (uint8_t)BITS(word, 15, 10);
    if (BITS(word, 30, 29) || BIT(word, 22) != wide || BIT(word, 21) ||
        (!wide && insn->amount > 31))
        return false;
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->rn = slot_source(BITS(word, 9, 5));
    insn->rm = slot_source(BITS(word, 20, 16));
    insn->run = wide ? run_extr64 : run_extr32;
    return true;
}

bool decode_data_processing_immediate(uint32_t word, struct insn *insn)
{
    switch (BITS(word, 25, 23)) {
    case 0: case 1:
        return decode_pc_relative(word, insn);
    case 2:
        return decode_add_subtract(word, insn);
    case 3:
        return decode_tag_arithmetic(word, insn);
    case 4:
        return decode_logical(word, insn);
    case 5:
        return decode_move_wide(word, insn);
    case 6:
        return decode_bitfield(word, insn);
    default:
        return decode_extract(word, insn);
    }
}
