/* Loads and stores of SIMD&FP registers (DDI 0487 C4.1.94).
 *
 * What an instruction accesses is one block of at most 64 bytes, judged as a whole before anything
 * changes: after a fault, registers, base and memory are as they were. */
#include "load_store.h"
#include "simd.h"

/* As read_memory() and write_memory(), for up to BLOCK_BYTES. */
ALWAYS_INLINE bool is_ready(const struct vcpu *cpu, const struct tlb_entry *entry, uint64_t va,
                            uint32_t size, uint32_t align, unsigned flags)
{
    if (!is_plain(cpu, strip_top_byte(cpu, va), size, align, flags))
        return false;
    for (uint32_t done = 0; done < size; done += GRANULE_BYTES) {
        uint32_t left = size - done;
        if (!tags_agree(cpu, entry->tags, va + done, left < GRANULE_BYTES ? left : GRANULE_BYTES,
                        flags))
            return false;
    }
    return true;
}

static bool read_block(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align,
                       unsigned flags, void *out)
{
    uint64_t address = strip_top_byte(cpu, va);
    const struct tlb_entry *entry = tlb_slot(cpu, address, flags);
    if (unlikely(entry->read_key != (address & entry->mask) ||
                 !is_ready(cpu, entry, va, size, align, flags)))
        return read_slow(cpu, va, size, align, flags | ACCESS_READ, out);
    copy_small(out, entry->data + (address & (PAGE_BYTES - 1)), size);
    return true;
}

static bool write_block(struct vcpu *cpu, uint64_t va, uint32_t size, uint32_t align,
                        unsigned flags, const void *in)
{
    uint64_t address = strip_top_byte(cpu, va);
    const struct tlb_entry *entry = tlb_slot(cpu, address, flags);
    if (unlikely(entry->write_key != (address & entry->mask) || cpu->machine->armed_monitors ||
                 !is_ready(cpu, entry, va, size, align, flags)))
        return write_slow(cpu, va, size, align, flags | ACCESS_WRITE, in);
    copy_small(entry->data + (address & (PAGE_BYTES - 1)), in, size);
    return true;
}

/* --- one register ----------------------------------------------------------------------- */

ALWAYS_INLINE bool load(struct vcpu *cpu, const struct insn *insn, uint64_t address,
                        uint32_t bytes)
{
    struct vector value = {0};
    if (unlikely(!read_memory(cpu, address, bytes, bytes, insn->flags, &value)))
        return false;
    cpu->v[insn->rd] = value;
    return true;
}

ALWAYS_INLINE bool store(struct vcpu *cpu, const struct insn *insn, uint64_t address,
                         uint32_t bytes)
{
    return write_memory(cpu, address, bytes, bytes, insn->flags, &cpu->v[insn->rd]);
}

/* The trap comes before every fault of the access. */
#define IF_ALLOWED(access)                                                                    \
    do {                                                                                      \
        if (fp_enabled(cpu) && stack_is_aligned(cpu, insn))                                   \
            access;                                                                           \
    } while (0)

#define OFFSET_HANDLERS(bytes)                                                                \
    static void run_load_##bytes(struct vcpu *cpu, const struct insn *insn)                   \
    {                                                                                         \
        IF_ALLOWED(load(cpu, insn, cpu->x[insn->rn] + insn->imm, bytes));                     \
    }                                                                                         \
    static void run_store_##bytes(struct vcpu *cpu, const struct insn *insn)                  \
    {                                                                                         \
        IF_ALLOWED(store(cpu, insn, cpu->x[insn->rn] + insn->imm, bytes));                    \
    }
OFFSET_HANDLERS(1)
OFFSET_HANDLERS(2)
OFFSET_HANDLERS(4)
OFFSET_HANDLERS(8)
OFFSET_HANDLERS(16)

static insn_handler *const load_offset[5] = {run_load_1, run_load_2, run_load_4, run_load_8,
                                             run_load_16};
static insn_handler *const store_offset[5] = {run_store_1, run_store_2, run_store_4,
                                              run_store_8, run_store_16};

/* Pre- and post-indexed: the base is written only after the access has succeeded. */
static void run_load_indexed(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu) && stack_is_aligned(cpu, insn) &&
        load(cpu, insn, base_address(cpu, insn), 1u << insn->size))
        cpu->x[insn->rn] += insn->imm;
}

static void run_store_indexed(struct vcpu *cpu, const struct insn *insn)
{
    if (fp_enabled(cpu) && stack_is_aligned(cpu, insn) &&
        store(cpu, insn, base_address(cpu, insn), 1u << insn->size))
        cpu->x[insn->rn] += insn->imm;
}

static void run_load_register_offset(struct vcpu *cpu, const struct insn *insn)
{
    IF_ALLOWED(load(cpu, insn, register_offset(cpu, insn), 1u << insn->size));
}

static void run_store_register_offset(struct vcpu *cpu, const struct insn *insn)
{
    IF_ALLOWED(store(cpu, insn, register_offset(cpu, insn), 1u << insn->size));
}

static void run_load_literal(struct vcpu *cpu, const struct insn *insn)
{
    IF_ALLOWED(load(cpu, insn, cpu->pc + insn->imm, 1u << insn->size));
}

static bool decode_literal(uint32_t word, struct insn *insn)
{
    unsigned opc = BITS(word, 31, 30);
    insn->size = (uint8_t)(2 + opc);
    insn->imm = (uint64_t)sign_extend(BITS(word, 23, 5), 19) << 2;
    insn->flags = ACCESS_UNCHECKED; /* PC-relative: D10.4 */
    insn->run = run_load_literal;
    return opc != 3;
}

/* By bits 24, 21 and 11:10: unsigned offset, register offset, unscaled, post- and pre-index. */
static bool decode_one_register(uint32_t word, struct insn *insn)
{
    enum { UNSCALED, POST, REGISTER, PRE } form = BITS(word, 11, 10);
    bool is_load = BIT(word, 22), scaled = BIT(word, 24);
    insn->size = (uint8_t)(BIT(word, 23) << 2 | BITS(word, 31, 30));
    if (insn->size > 4 || (!scaled && (form == REGISTER) != BIT(word, 21)))
        return false;
    if (scaled || form == UNSCALED) {
        insn->imm = scaled ? (uint64_t)BITS(word, 21, 10) << insn->size
                           : (uint64_t)sign_extend(BITS(word, 20, 12), 9);
        insn->flags = unchecked_if_stack(insn);
        insn->run = is_load ? load_offset[insn->size] : store_offset[insn->size];
        return true;
    }
    if (form == REGISTER) {
        insn->rm = slot_source(BITS(word, 20, 16));
        insn->shift = BIT(word, 12) ? insn->size : 0;
        insn->run = is_load ? run_load_register_offset : run_store_register_offset;
        return BIT(word, 14);
    }
    insn->imm = (uint64_t)sign_extend(BITS(word, 20, 12), 9);
    insn->shift = form == POST ? ADDRESS_POST : ADDRESS_PRE;
    insn->run = is_load ? run_load_indexed : run_store_indexed;
    return true;
}

/* --- pairs ------------------------------------------------------------------------------ */

ALWAYS_INLINE void load_pair(struct vcpu *cpu, const struct insn *insn, uint32_t bytes)
{
    uint8_t block[2 * sizeof(struct vector)];
    if (!fp_enabled(cpu) || !stack_is_aligned(cpu, insn) ||
        !read_block(cpu, base_address(cpu, insn), 2 * bytes, bytes, insn->flags, block))
        return;
    if (insn->shift != ADDRESS_OFFSET)
        cpu->x[insn->rn] += insn->imm;
    cpu->v[insn->rd] = cpu->v[insn->ra] = (struct vector){0};
    copy_small(&cpu->v[insn->rd], block, bytes);
    copy_small(&cpu->v[insn->ra], block + bytes, bytes);
}

ALWAYS_INLINE void store_pair(struct vcpu *cpu, const struct insn *insn, uint32_t bytes)
{
    uint8_t block[2 * sizeof(struct vector)];
    copy_small(block, &cpu->v[insn->rd], bytes);
    copy_small(block + bytes, &cpu->v[insn->ra], bytes);
    if (fp_enabled(cpu) && stack_is_aligned(cpu, insn) &&
        write_block(cpu, base_address(cpu, insn), 2 * bytes, bytes, insn->flags, block) &&
        insn->shift != ADDRESS_OFFSET)
        cpu->x[insn->rn] += insn->imm;
}

#define PAIR_HANDLERS(bytes)                                                                  \
    static void run_load_pair_##bytes(struct vcpu *cpu, const struct insn *insn)              \
    {                                                                                         \
        load_pair(cpu, insn, bytes);                                                          \
    }                                                                                         \
    static void run_store_pair_##bytes(struct vcpu *cpu, const struct insn *insn)             \
    {                                                                                         \
        store_pair(cpu, insn, bytes);                                                         \
    }
PAIR_HANDLERS(4)
PAIR_HANDLERS(8)
PAIR_HANDLERS(16)

static bool decode_pair(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[2][3] = {
        {run_store_pair_4, run_store_pair_8, run_store_pair_16},
        {run_load_pair_4, run_load_pair_8, run_load_pair_16}};
    unsigned opc = BITS(word, 31, 30);
    if (opc == 3)
        return false;
    insn->ra = (uint8_t)BITS(word, 14, 10);
    insn->shift = pair_addresses[BITS(word, 24, 23)];
    insn->imm = (uint64_t)sign_extend(BITS(word, 21, 15), 7) << (2 + opc);
    if (insn->shift == ADDRESS_OFFSET)
        insn->flags = unchecked_if_stack(insn);
    insn->run = handlers[BIT(word, 22)][opc];
    return true;
}

/* --- structures: LD1 to LD4, ST1 to ST4, LD1R to LD4R ---------------------------------------
 *
 * `amount` is how many registers the instruction names, from rd on; behind v31 comes v0. What is
 * added to the base afterwards is x[rm] + imm, one of which is zero, or both. */

enum { NO_STRUCTURES, STRUCTURES }; /* insn->shift: elements of the registers alternate */

ALWAYS_INLINE struct vector *structure_register(struct vcpu *cpu, const struct insn *insn,
                                                unsigned number)
{
    return &cpu->v[(insn->rd + number) % VECTORS];
}

/* Between the registers and a block in memory's order; `bytes` of each register. */
static void copy_elements(struct vcpu *cpu, const struct insn *insn, uint8_t *block,
                          unsigned bytes, bool is_load)
{
    unsigned unit = insn->shift == STRUCTURES ? 1u << insn->size : bytes;
    for (unsigned done = 0; done < bytes; done += unit)
        for (unsigned i = 0; i < insn->amount; i++, block += unit) {
            uint8_t *lane = structure_register(cpu, insn, i)->u8 + done;
            if (is_load)
                memcpy(lane, block, unit);
            else
                memcpy(block, lane, unit);
        }
}

static void clear_registers(struct vcpu *cpu, const struct insn *insn)
{
    for (unsigned i = 0; i < insn->amount; i++)
        *structure_register(cpu, insn, i) = (struct vector){0};
}

static void write_back_structures(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rn] += cpu->x[insn->rm] + insn->imm;
}

static void run_load_multiple(struct vcpu *cpu, const struct insn *insn)
{
    uint8_t block[BLOCK_BYTES];
    unsigned bytes = BIT(insn->raw, 30) ? 16 : 8;
    if (!fp_enabled(cpu) || !stack_is_aligned(cpu, insn) ||
        !read_block(cpu, cpu->x[insn->rn], bytes * insn->amount, 1u << insn->size, insn->flags,
                    block))
        return;
    clear_registers(cpu, insn);
    copy_elements(cpu, insn, block, bytes, true);
    write_back_structures(cpu, insn);
}

static void run_store_multiple(struct vcpu *cpu, const struct insn *insn)
{
    uint8_t block[BLOCK_BYTES];
    unsigned bytes = BIT(insn->raw, 30) ? 16 : 8;
    copy_elements(cpu, insn, block, bytes, false);
    if (fp_enabled(cpu) && stack_is_aligned(cpu, insn) &&
        write_block(cpu, cpu->x[insn->rn], bytes * insn->amount, 1u << insn->size, insn->flags,
                    block))
        write_back_structures(cpu, insn);
}

/* One lane of each register; its number is in insn->ra. */
static void run_load_single(struct vcpu *cpu, const struct insn *insn)
{
    uint8_t block[BLOCK_BYTES];
    unsigned bytes = 1u << insn->size;
    if (!fp_enabled(cpu) || !stack_is_aligned(cpu, insn) ||
        !read_block(cpu, cpu->x[insn->rn], bytes * insn->amount, bytes, insn->flags, block))
        return;
    for (unsigned i = 0; i < insn->amount; i++)
        copy_small(structure_register(cpu, insn, i)->u8 + insn->ra * bytes, block + i * bytes,
                   bytes);
    write_back_structures(cpu, insn);
}

static void run_store_single(struct vcpu *cpu, const struct insn *insn)
{
    uint8_t block[BLOCK_BYTES];
    unsigned bytes = 1u << insn->size;
    for (unsigned i = 0; i < insn->amount; i++)
        copy_small(block + i * bytes, structure_register(cpu, insn, i)->u8 + insn->ra * bytes,
                   bytes);
    if (fp_enabled(cpu) && stack_is_aligned(cpu, insn) &&
        write_block(cpu, cpu->x[insn->rn], bytes * insn->amount, bytes, insn->flags, block))
        write_back_structures(cpu, insn);
}

static void run_load_replicate(struct vcpu *cpu, const struct insn *insn)
{
    uint8_t block[BLOCK_BYTES];
    unsigned bytes = 1u << insn->size;
    if (!fp_enabled(cpu) || !stack_is_aligned(cpu, insn) ||
        !read_block(cpu, cpu->x[insn->rn], bytes * insn->amount, bytes, insn->flags, block))
        return;
    for (unsigned i = 0; i < insn->amount; i++) {
        uint64_t element = 0;
        copy_small(&element, block + i * bytes, bytes);
        element = duplicate(element, insn->size);
        *structure_register(cpu, insn, i) =
            (struct vector){.u64 = {element, BIT(insn->raw, 30) ? element : 0}};
    }
    write_back_structures(cpu, insn);
}

/* The base register and what is added to it: nothing, a register, or the block's size. */
static bool decode_structure_base(uint32_t word, struct insn *insn, unsigned block_bytes)
{
    unsigned rm = BITS(word, 20, 16);
    bool writes_back = BIT(word, 23);
    insn->rm = writes_back ? slot_source(rm) : SLOT_ZERO;
    insn->imm = writes_back && rm == 31 ? block_bytes : 0;
    insn->flags = writes_back ? 0 : unchecked_if_stack(insn);
    return writes_back || !rm;
}

static bool decode_multiple(uint32_t word, struct insn *insn)
{
    static const uint8_t registers[16] = {[0] = 4, [2] = 4, [4] = 3, [6] = 3,
                                          [7] = 1, [8] = 2, [10] = 2};
    unsigned opcode = BITS(word, 15, 12);
    bool is_full = BIT(word, 30);
    insn->size = (uint8_t)BITS(word, 11, 10);
    insn->amount = registers[opcode];
    insn->shift = opcode == 0 || opcode == 4 || opcode == 8 ? STRUCTURES : NO_STRUCTURES;
    insn->run = BIT(word, 22) ? run_load_multiple : run_store_multiple;
    if (!insn->amount || BIT(word, 21))
        return false;
    if (insn->shift == STRUCTURES && insn->size == 3 && !is_full)
        return false;
    return decode_structure_base(word, insn, insn->amount * (is_full ? 16u : 8u));
}

/* insn->size and the lane of a single structure; false if unallocated. The lane's number is as many
 * bits of Q:S:size as there are lanes; the others must be zero, but for what says that it is 64. */
static bool decode_lane(uint32_t word, struct insn *insn)
{
    unsigned scale = BITS(word, 15, 14);
    unsigned index = BIT(word, 30) << 3 | BIT(word, 12) << 2 | BITS(word, 11, 10);
    bool is_64 = scale == 2 && (index & 7) == 1;
    insn->size = is_64 ? 3 : (uint8_t)scale;
    insn->ra = (uint8_t)(index >> insn->size);
    return is_64 || !(index & ((1u << scale) - 1));
}

static bool decode_single(uint32_t word, struct insn *insn)
{
    bool is_load = BIT(word, 22), replicates = BITS(word, 15, 14) == 3;
    insn->amount = (uint8_t)((BIT(word, 13) << 1 | BIT(word, 21)) + 1);
    if (replicates) {
        insn->size = (uint8_t)BITS(word, 11, 10);
        insn->run = run_load_replicate;
        if (!is_load || BIT(word, 12))
            return false;
    } else {
        insn->run = is_load ? run_load_single : run_store_single;
        if (!decode_lane(word, insn))
            return false;
    }
    return decode_structure_base(word, insn, (unsigned)insn->amount << insn->size);
}

bool decode_simd_load_store(uint32_t word, struct insn *insn)
{
    insn->rd = (uint8_t)BITS(word, 4, 0);
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    switch (BITS(word, 29, 28)) {
    case 0:
        if (BIT(word, 31))
            return false;
        return BIT(word, 24) ? decode_single(word, insn) : decode_multiple(word, insn);
    case 1:
        insn->rn = SLOT_ZERO;
        return !BIT(word, 24) && decode_literal(word, insn);
    case 2:
        return decode_pair(word, insn);
    default:
        return decode_one_register(word, insn);
    }
}
