/* Loads and stores of general-purpose registers (DDI 0487 C4.1.94). */
#include "load_store.h"
#include "simd.h"

/* insn->amount of the loads: how the value fills the register. */
enum { EXTEND_ZERO, EXTEND_SIGN64, EXTEND_SIGN32 };

static uint64_t extend_loaded(const struct insn *insn, uint64_t value)
{
    if (insn->amount == EXTEND_ZERO)
        return value;
    value = (uint64_t)sign_extend(value, 8u << insn->size);
    return insn->amount == EXTEND_SIGN32 ? (uint32_t)value : value;
}

ALWAYS_INLINE bool load_at(struct vcpu *cpu, const struct insn *insn, uint64_t address,
                           uint32_t bytes, uint64_t *value)
{
    *value = 0;
    return read_memory(cpu, address, bytes, bytes, insn->flags, value);
}

/* One body for all sizes; inlined with a constant into each handler. */
ALWAYS_INLINE void load(struct vcpu *cpu, const struct insn *insn, uint64_t address,
                        uint32_t bytes)
{
    uint64_t value;
    if (!stack_is_aligned(cpu, insn))
        return;
    if (unlikely(!load_at(cpu, insn, address, bytes, &value)))
        return;
    cpu->x[insn->rd] = extend_loaded(insn, value);
}

ALWAYS_INLINE void store(struct vcpu *cpu, const struct insn *insn, uint64_t address,
                         uint32_t bytes)
{
    if (stack_is_aligned(cpu, insn))
        write_memory(cpu, address, bytes, bytes, insn->flags, &cpu->x[insn->rd]);
}

#define OFFSET_HANDLERS(bytes)                                                                \
    static void run_load_##bytes(struct vcpu *cpu, const struct insn *insn)                   \
    {                                                                                         \
        load(cpu, insn, cpu->x[insn->rn] + insn->imm, bytes);                                 \
    }                                                                                         \
    static void run_store_##bytes(struct vcpu *cpu, const struct insn *insn)                  \
    {                                                                                         \
        store(cpu, insn, cpu->x[insn->rn] + insn->imm, bytes);                                \
    }
OFFSET_HANDLERS(1)
OFFSET_HANDLERS(2)
OFFSET_HANDLERS(4)
OFFSET_HANDLERS(8)

static insn_handler *const load_offset[4] = {run_load_1, run_load_2, run_load_4, run_load_8};
static insn_handler *const store_offset[4] = {run_store_1, run_store_2, run_store_4,
                                              run_store_8};

/* Pre- and post-indexed; the base is written only after the access has succeeded, and a load
 * into the base register wins over the write-back. */
static void run_load_indexed(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value, updated = cpu->x[insn->rn] + insn->imm;
    if (!stack_is_aligned(cpu, insn) ||
        !load_at(cpu, insn, base_address(cpu, insn), 1u << insn->size, &value))
        return;
    cpu->x[insn->rn] = updated;
    cpu->x[insn->rd] = extend_loaded(insn, value);
}

static void run_store_indexed(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t updated = cpu->x[insn->rn] + insn->imm;
    uint32_t bytes = 1u << insn->size;
    if (stack_is_aligned(cpu, insn) &&
        write_memory(cpu, base_address(cpu, insn), bytes, bytes, insn->flags,
                     &cpu->x[insn->rd]))
        cpu->x[insn->rn] = updated;
}

static void run_load_register_offset(struct vcpu *cpu, const struct insn *insn)
{
    load(cpu, insn, register_offset(cpu, insn), 1u << insn->size);
}
static void run_store_register_offset(struct vcpu *cpu, const struct insn *insn)
{
    store(cpu, insn, register_offset(cpu, insn), 1u << insn->size);
}

static void run_load_literal(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t value;
    if (load_at(cpu, insn, cpu->pc + insn->imm, 1u << insn->size, &value))
        cpu->x[insn->rd] = extend_loaded(insn, value);
}

/* With PSTATE.UAO these are ordinary accesses. */
static struct insn as_unprivileged(const struct vcpu *cpu, const struct insn *insn)
{
    struct insn copy = *insn;
    if (!cpu->uao)
        copy.flags |= ACCESS_UNPRIVILEGED;
    return copy;
}

static void run_load_unprivileged(struct vcpu *cpu, const struct insn *insn)
{
    struct insn copy = as_unprivileged(cpu, insn);
    load(cpu, &copy, cpu->x[insn->rn] + insn->imm, 1u << insn->size);
}
static void run_store_unprivileged(struct vcpu *cpu, const struct insn *insn)
{
    struct insn copy = as_unprivileged(cpu, insn);
    store(cpu, &copy, cpu->x[insn->rn] + insn->imm, 1u << insn->size);
}

/* Prefetches are hints. */
static void run_nothing(struct vcpu *cpu, const struct insn *insn)
{
    (void)cpu;
    (void)insn;
}

static bool decode_literal(uint32_t word, struct insn *insn)
{
    unsigned opc = BITS(word, 31, 30);
    insn->rd = slot_target(BITS(word, 4, 0));
    insn->imm = (uint64_t)sign_extend(BITS(word, 23, 5), 19) << 2;
    insn->flags = ACCESS_UNCHECKED; /* PC-relative: D10.4 */
    insn->size = opc == 1 ? 3 : 2;
    insn->amount = opc == 2 ? EXTEND_SIGN64 : EXTEND_ZERO;
    insn->run = opc == 3 ? run_nothing : run_load_literal;
    return true;
}

/* Reads what `size` and `opc` mean; false if unallocated, *prefetch for PRFM. */
static bool decode_kind(uint32_t word, struct insn *insn, bool *is_store, bool *prefetch)
{
    unsigned opc = BITS(word, 23, 22);
    insn->size = (uint8_t)BITS(word, 31, 30);
    *is_store = opc == 0;
    *prefetch = opc == 2 && insn->size == 3;
    if (opc == 3 && insn->size >= 2)
        return false;
    insn->amount = opc == 2 ? EXTEND_SIGN64 : opc == 3 ? EXTEND_SIGN32 : EXTEND_ZERO;
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->rd = *is_store ? slot_source(BITS(word, 4, 0)) : slot_target(BITS(word, 4, 0));
    return true;
}

static bool decode_unsigned_offset(uint32_t word, struct insn *insn)
{
    bool is_store, prefetch;
    if (!decode_kind(word, insn, &is_store, &prefetch))
        return false;
    insn->imm = (uint64_t)BITS(word, 21, 10) << insn->size;
    insn->flags = unchecked_if_stack(insn);
    insn->run = prefetch   ? run_nothing
                : is_store ? store_offset[insn->size]
                           : load_offset[insn->size];
    return true;
}

/* Unscaled offset, post-index, unprivileged and pre-index, by bits 11:10. */
static bool decode_signed_offset(uint32_t word, struct insn *insn)
{
    enum { UNSCALED, POST, UNPRIVILEGED, PRE } form = BITS(word, 11, 10);
    bool is_store, prefetch;
    if (!decode_kind(word, insn, &is_store, &prefetch) || (prefetch && form != UNSCALED))
        return false;
    insn->imm = (uint64_t)sign_extend(BITS(word, 20, 12), 9);
    if (form == POST || form == PRE) {
        insn->shift = form == POST ? ADDRESS_POST : ADDRESS_PRE;
        insn->run = is_store ? run_store_indexed : run_load_indexed;
        return true;
    }
    insn->flags = unchecked_if_stack(insn);
    insn->run = prefetch   ? run_nothing
                : is_store ? store_offset[insn->size]
                           : load_offset[insn->size];
    if (form == UNPRIVILEGED)
        insn->run = is_store ? run_store_unprivileged : run_load_unprivileged;
    return true;
}

static bool decode_register_offset(uint32_t word, struct insn *insn)
{
    bool is_store, prefetch;
    if (!BIT(word, 14) || !decode_kind(word, insn, &is_store, &prefetch))
        return false;
    insn->rm = slot_source(BITS(word, 20, 16));
    insn->shift = BIT(word, 12) ? insn->size : 0;
    insn->run = prefetch   ? run_nothing
                : is_store ? run_store_register_offset
                           : run_load_register_offset;
    return true;
}

/* --- pairs --- */

static void run_load_pair(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    uint64_t updated = cpu->x[insn->rn] + insn->imm, first = 0, second = 0;
    uint8_t buffer[16];
    if (!stack_is_aligned(cpu, insn) ||
        !read_memory(cpu, base_address(cpu, insn), 2 * bytes, bytes, insn->flags, buffer))
        return;
    copy_small(&first, buffer, bytes);
    copy_small(&second, buffer + bytes, bytes);
    if (insn->shift != ADDRESS_OFFSET)
        cpu->x[insn->rn] = updated;
    cpu->x[insn->rd] = extend_loaded(insn, first);
    cpu->x[insn->ra] = extend_loaded(insn, second);
}

static void run_store_pair(struct vcpu *cpu, const struct insn *insn)
{
    uint32_t bytes = 1u << insn->size;
    uint64_t updated = cpu->x[insn->rn] + insn->imm;
    uint8_t buffer[16];
    copy_small(buffer, &cpu->x[insn->rd], bytes);
    copy_small(buffer + bytes, &cpu->x[insn->ra], bytes);
    if (stack_is_aligned(cpu, insn) &&
        write_memory(cpu, base_address(cpu, insn), 2 * bytes, bytes, insn->flags, buffer) &&
        insn->shift != ADDRESS_OFFSET)
        cpu->x[insn->rn] = updated;
}

static bool decode_pair(uint32_t word, struct insn *insn)
{
    unsigned opc = BITS(word, 31, 30), form = BITS(word, 24, 23);
    bool is_load = BIT(word, 22);
    if (opc == 3 || (opc == 1 && form == 0)) /* no LDNPSW */
        return false;
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->rd = is_load ? slot_target(BITS(word, 4, 0)) : slot_source(BITS(word, 4, 0));
    insn->ra = is_load ? slot_target(BITS(word, 14, 10)) : slot_source(BITS(word, 14, 10));
    insn->shift = pair_addresses[form];
    int64_t offset = sign_extend(BITS(word, 21, 15), 7);
    if (opc == 1 && !is_load) {
        insn->imm = (uint64_t)offset * GRANULE_BYTES;
        insn->run = run_store_tag_pair;
        return true;
    }
    insn->size = opc == 2 ? 3 : 2;
    insn->amount = opc == 1 ? EXTEND_SIGN64 : EXTEND_ZERO;
    insn->imm = (uint64_t)offset << insn->size;
    if (insn->shift == ADDRESS_OFFSET)
        insn->flags = unchecked_if_stack(insn);
    insn->run = is_load ? run_load_pair : run_store_pair;
    return true;
}

/* --- LDAPUR and STLUR: ordered, with an unscaled offset --- */

static bool decode_ordered_unscaled(uint32_t word, struct insn *insn)
{
    bool is_store, prefetch;
    if (BITS(word, 11, 10) || !decode_kind(word, insn, &is_store, &prefetch) || prefetch)
        return false;
    insn->imm = (uint64_t)sign_extend(BITS(word, 20, 12), 9);
    insn->flags = unchecked_if_stack(insn) | ACCESS_ALIGNED;
    insn->run = is_store ? store_offset[insn->size] : load_offset[insn->size];
    return true;
}

bool decode_load_store(uint32_t word, struct insn *insn)
{
    if (BIT(word, 26))
        return decode_simd_load_store(word, insn);
    switch (BITS(word, 29, 28)) {
    case 0:
        return !BIT(word, 24) && decode_exclusive_and_ordered(word, insn);
    case 1:
        if (!BIT(word, 24))
            return decode_literal(word, insn);
        if (BIT(word, 21))
            return decode_tag_load_store(word, insn);
        return decode_ordered_unscaled(word, insn);
    case 2:
        return decode_pair(word, insn);
    default:
        if (BIT(word, 24))
            return decode_unsigned_offset(word, insn);
        if (!BIT(word, 21))
            return decode_signed_offset(word, insn);
        if (BITS(word, 11, 10) == 2)
            return decode_register_offset(word, insn);
        return BITS(word, 11, 10) == 0 && decode_atomic(word, insn);
    }
}
