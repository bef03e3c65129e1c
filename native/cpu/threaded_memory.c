/* Ops of loads and stores of general-purpose registers (DDI 0487 C4.1.94): aligned ones that hit
 * the TLB and whose tag agrees. Everything else is for op_call(), and there for memory.c. */
#include "load_store.h"
#include "threaded.h"

#define X(slot) cpu->x[insn->slot]

ALWAYS_INLINE struct tlb_entry *entry_of(const struct vcpu *cpu, uint64_t va)
{
    return &cpu->data_tlb[(va >> PAGE_SHIFT) % TLB_ENTRIES];
}

/* One compare judges the page, the kind of access, and alignment: no bit of a key below the page's
 * is set, or else it is that of an entry that is never to match. */
ALWAYS_INLINE bool hits(uint64_t key, const struct tlb_entry *entry, uint64_t va, uint32_t align)
{
    return (va & (entry->mask | (align - 1))) == key;
}

/* Of an access within one granule. */
ALWAYS_INLINE bool tag_agrees(const struct vcpu *cpu, const struct tlb_entry *entry, uint64_t va)
{
    return likely(!cpu->checks_tags) || !entry->tags ||
           tag_at(entry->tags, (unsigned)(va & (PAGE_BYTES - 1)) / GRANULE_BYTES) ==
               logical_tag(va);
}

ALWAYS_INLINE uint8_t *host_address(const struct tlb_entry *entry, uint64_t va)
{
    return entry->data + (va & (PAGE_BYTES - 1));
}

/* Only where another vCPU may have reserved what is stored to. */
ALWAYS_INLINE bool is_reserved(const struct vcpu *cpu)
{
    return unlikely(cpu->machine->armed_monitors != 0);
}

/* SP has to be aligned, if that is checked; if it is, it need not be known whether. */
ALWAYS_INLINE bool stack_permits(const struct vcpu *cpu)
{
    return likely(!(cpu->x[SLOT_SP] & 15));
}

/* `permits` is what has to hold besides; `updates` is what the base register becomes. */
#define LOAD(name, type, extended, address, permits, updates)                                 \
    static OP(name)                                                                           \
    {                                                                                         \
        uint64_t va = (address);                                                              \
        const struct tlb_entry *entry = entry_of(cpu, va);                                    \
        if (unlikely(!hits(entry->read_key, entry, va, sizeof(type)) || !(permits)))          \
            GO(op_call);                                                                      \
        type value;                                                                           \
        memcpy(&value, host_address(entry, va), sizeof value);                                \
        updates;                                                                              \
        X(rd) = (uint64_t)(extended)value;                                                    \
        NEXT();                                                                               \
    }
#define STORE(name, type, address, permits, updates)                                          \
    static OP(name)                                                                           \
    {                                                                                         \
        uint64_t va = (address);                                                              \
        const struct tlb_entry *entry = entry_of(cpu, va);                                    \
        type value = (type)X(rd);                                                             \
        if (unlikely(!hits(entry->write_key, entry, va, sizeof(type)) || !(permits) ||        \
                     is_reserved(cpu)))                                                       \
            GO(op_call);                                                                      \
        memcpy(host_address(entry, va), &value, sizeof value);                                \
        updates;                                                                              \
        NEXT();                                                                               \
    }

#define OFFSET (X(rn) + insn->imm)
#define POST (X(rn))
#define TAG_AGREES tag_agrees(cpu, entry, va)
#define STACK_PERMITS stack_permits(cpu)
#define KEEP (void)0
#define UPDATE X(rn) += insn->imm

/* The extended register, by the bits of the instruction that say how. */
#define INDEX_PLAIN (X(rn) + (X(rm) << insn->shift))
#define INDEX_UXTW (X(rn) + ((uint64_t)(uint32_t)X(rm) << insn->shift))
#define INDEX_SXTW (X(rn) + ((uint64_t)(int64_t)(int32_t)X(rm) << insn->shift))

/* [SP, #imm] without write-back is Tag Unchecked (D10.4). */
#define LOADS(name, type, extended)                                                           \
    LOAD(op_##name, type, extended, OFFSET, TAG_AGREES, KEEP)                                 \
    LOAD(op_##name##_stack, type, extended, OFFSET, STACK_PERMITS, KEEP)                      \
    LOAD(op_##name##_post, type, extended, POST, TAG_AGREES, UPDATE)                          \
    LOAD(op_##name##_pre, type, extended, OFFSET, TAG_AGREES, UPDATE)                         \
    LOAD(op_##name##_index, type, extended, INDEX_PLAIN, TAG_AGREES, KEEP)                    \
    LOAD(op_##name##_uxtw, type, extended, INDEX_UXTW, TAG_AGREES, KEEP)                      \
    LOAD(op_##name##_sxtw, type, extended, INDEX_SXTW, TAG_AGREES, KEEP)
#define STORES(name, type)                                                                    \
    STORE(op_##name, type, OFFSET, TAG_AGREES, KEEP)                                          \
    STORE(op_##name##_stack, type, OFFSET, STACK_PERMITS, KEEP)                               \
    STORE(op_##name##_post, type, POST, TAG_AGREES, UPDATE)                                   \
    STORE(op_##name##_pre, type, OFFSET, TAG_AGREES, UPDATE)                                  \
    STORE(op_##name##_index, type, INDEX_PLAIN, TAG_AGREES, KEEP)                             \
    STORE(op_##name##_uxtw, type, INDEX_UXTW, TAG_AGREES, KEEP)                               \
    STORE(op_##name##_sxtw, type, INDEX_SXTW, TAG_AGREES, KEEP)

LOADS(load_u8, uint8_t, uint8_t)
LOADS(load_u16, uint16_t, uint16_t)
LOADS(load_u32, uint32_t, uint32_t)
LOADS(load_u64, uint64_t, uint64_t)
LOADS(load_s8, int8_t, int64_t)
LOADS(load_s16, int16_t, int64_t)
LOADS(load_s32, int32_t, int64_t)
LOADS(load_s8_32, int8_t, uint32_t)
LOADS(load_s16_32, int16_t, uint32_t)
STORES(store_8, uint8_t)
STORES(store_16, uint16_t)
STORES(store_32, uint32_t)
STORES(store_64, uint64_t)

enum form { FORM_OFFSET, FORM_STACK, FORM_POST, FORM_PRE, FORM_INDEX, FORM_UXTW, FORM_SXTW, FORMS };
#define ALL_FORMS(name)                                                                       \
    {op_##name,           op_##name##_stack, op_##name##_post, op_##name##_pre,               \
     op_##name##_index, op_##name##_uxtw,  op_##name##_sxtw}

/* By bits 23:22 (opc) and 31:30 (size). */
static threaded_op *const single[4][4][FORMS] = {
    {ALL_FORMS(store_8), ALL_FORMS(store_16), ALL_FORMS(store_32), ALL_FORMS(store_64)},
    {ALL_FORMS(load_u8), ALL_FORMS(load_u16), ALL_FORMS(load_u32), ALL_FORMS(load_u64)},
    {ALL_FORMS(load_s8), ALL_FORMS(load_s16), ALL_FORMS(load_s32), {NULL}}, /* PRFM */
    {ALL_FORMS(load_s8_32), ALL_FORMS(load_s16_32), {NULL}, {NULL}},
};

/* --- pairs of 64 bits, and of 32 --- */

/* Within one granule if tags are checked; within one page in any case. */
ALWAYS_INLINE bool pair_permits(const struct vcpu *cpu, const struct tlb_entry *entry, uint64_t va,
                                uint32_t bytes)
{
    if (likely(!cpu->checks_tags) || !entry->tags)
        return (va & (PAGE_BYTES - 1)) <= PAGE_BYTES - bytes;
    return (va & (GRANULE_BYTES - 1)) <= GRANULE_BYTES - bytes && tag_agrees(cpu, entry, va);
}

ALWAYS_INLINE bool pair_on_stack(const struct vcpu *cpu, uint64_t va, uint32_t bytes)
{
    return stack_permits(cpu) && (va & (PAGE_BYTES - 1)) <= PAGE_BYTES - bytes;
}

#define LOAD_PAIR(name, type, address, permits, updates)                                      \
    static OP(name)                                                                           \
    {                                                                                         \
        uint64_t va = (address);                                                              \
        const struct tlb_entry *entry = entry_of(cpu, va);                                    \
        if (unlikely(!hits(entry->read_key, entry, va, sizeof(type)) || !(permits)))          \
            GO(op_call);                                                                      \
        type pair[2];                                                                         \
        memcpy(pair, host_address(entry, va), sizeof pair);                                   \
        updates;                                                                              \
        X(rd) = pair[0];                                                                      \
        X(ra) = pair[1];                                                                      \
        NEXT();                                                                               \
    }
#define STORE_PAIR(name, type, address, permits, updates)                                     \
    static OP(name)                                                                           \
    {                                                                                         \
        uint64_t va = (address);                                                              \
        const struct tlb_entry *entry = entry_of(cpu, va);                                    \
        type pair[2] = {(type)X(rd), (type)X(ra)};                                            \
        if (unlikely(!hits(entry->write_key, entry, va, sizeof(type)) || !(permits) ||        \
                     is_reserved(cpu)))                                                       \
            GO(op_call);                                                                      \
        memcpy(host_address(entry, va), pair, sizeof pair);                                   \
        updates;                                                                              \
        NEXT();                                                                               \
    }
/* With write-back, accesses by SP are checked, too, and SP has to be aligned besides. */
#define PAIRS(macro, name, type)                                                              \
    macro(op_##name, type, OFFSET, pair_permits(cpu, entry, va, 2 * sizeof(type)), KEEP)      \
    macro(op_##name##_stack, type, OFFSET, pair_on_stack(cpu, va, 2 * sizeof(type)), KEEP)    \
    macro(op_##name##_post, type, POST, pair_permits(cpu, entry, va, 2 * sizeof(type)),       \
          UPDATE)                                                                             \
    macro(op_##name##_pre, type, OFFSET, pair_permits(cpu, entry, va, 2 * sizeof(type)),      \
          UPDATE)                                                                             \
    macro(op_##name##_post_stack, type, POST,                                                 \
          stack_permits(cpu) && pair_permits(cpu, entry, va, 2 * sizeof(type)), UPDATE)       \
    macro(op_##name##_pre_stack, type, OFFSET,                                                \
          stack_permits(cpu) && pair_permits(cpu, entry, va, 2 * sizeof(type)), UPDATE)
PAIRS(LOAD_PAIR, load_pair64, uint64_t)
PAIRS(LOAD_PAIR, load_pair32, uint32_t)
PAIRS(STORE_PAIR, store_pair64, uint64_t)
PAIRS(STORE_PAIR, store_pair32, uint32_t)

#define PAIR_FORMS(name)                                                                      \
    {{op_##name, op_##name##_post, op_##name##_pre},                                          \
     {op_##name##_stack, op_##name##_post_stack, op_##name##_pre_stack}}

/* By bit 22 (load), bit 31, whether SP is the base, and ADDRESS_*. */
static threaded_op *const pairs[2][2][2][3] = {
    {PAIR_FORMS(store_pair32), PAIR_FORMS(store_pair64)},
    {PAIR_FORMS(load_pair32), PAIR_FORMS(load_pair64)},
};

static threaded_op *pair_op(const struct insn *insn)
{
    uint32_t word = insn->raw;
    if (BIT(word, 30)) /* LDPSW, STGP */
        return NULL;
    return pairs[BIT(word, 22)][BIT(word, 31)][insn->rn == SLOT_SP][insn->shift];
}

/* --- which op --- */

/* Of an op that would have to look at SP besides, none is here: with an index or write-back. */
static int form_of(const struct insn *insn)
{
    uint32_t word = insn->raw;
    bool on_stack = insn->rn == SLOT_SP;
    if (BIT(word, 24))
        return on_stack ? FORM_STACK : FORM_OFFSET;
    if (BIT(word, 21)) {
        if (on_stack || BITS(word, 11, 10) != 2)
            return FORMS; /* an atomic instruction, among others */
        switch (BITS(word, 15, 13)) {
        case 2:
            return FORM_UXTW;
        case 6:
            return FORM_SXTW;
        default:
            return FORM_INDEX;
        }
    }
    switch (BITS(word, 11, 10)) {
    case 0:
        return on_stack ? FORM_STACK : FORM_OFFSET;
    case 1:
        return on_stack ? FORMS : FORM_POST;
    case 3:
        return on_stack ? FORMS : FORM_PRE;
    default:
        return FORMS; /* LDTR, STTR */
    }
}

threaded_op *memory_op(struct insn *insn)
{
    uint32_t word = insn->raw;
    if (BIT(word, 26)) /* of SIMD&FP registers */
        return NULL;
    if (BITS(word, 29, 28) == 2)
        return pair_op(insn);
    if (BITS(word, 29, 28) != 3)
        return NULL;
    int form = form_of(insn);
    return form == FORMS ? NULL : single[BITS(word, 23, 22)][insn->size][form];
}
