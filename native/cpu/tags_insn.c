/* The instructions of the Memory Tagging Extension (DDI 0487 D10 and C6.2). */
#include "memory.h"

#define TAG_SHIFT 56
#define GCR_RRND (1ull << 16)
#define RGSR_TAG 0xfull
#define RGSR_SEED_SHIFT 8

static uint64_t with_logical_tag(uint64_t address, unsigned tag)
{
    return (address & ~(0xfull << TAG_SHIFT)) | (uint64_t)tag << TAG_SHIFT;
}

/* AArch64.ChooseNonExcludedTag() (aarch64/functions/memory). */
static unsigned choose_tag(unsigned tag, unsigned offset, unsigned exclude)
{
    if (exclude == 0xffff)
        return 0;
    if (!offset)
        while (exclude >> tag & 1)
            tag = (tag + 1) & 0xf;
    for (; offset; offset--)
        do
            tag = (tag + 1) & 0xf;
        while (exclude >> tag & 1);
    return tag;
}

/* AArch64.RandomTag(): four steps of the 16-bit LFSR in RGSR_EL1.SEED. */
static unsigned random_tag(struct vcpu *cpu)
{
    uint32_t seed = cpu->sys.rgsr >> RGSR_SEED_SHIFT & 0xffff;
    unsigned tag = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t top = (seed >> 5 ^ seed >> 3 ^ seed >> 2 ^ seed) & 1;
        seed = top << 15 | seed >> 1;
        tag |= top << i;
    }
    cpu->sys.rgsr = (cpu->sys.rgsr & RGSR_TAG) | (uint64_t)seed << RGSR_SEED_SHIFT;
    return tag;
}

/* With GCR_EL1.RRND set the choice is the implementation's. It is the same LFSR, so that all of
 * its state is RGSR_EL1 and moves with the vCPU. An LFSR cannot leave a seed of 0 by itself. */
static unsigned draw_tag(struct vcpu *cpu, unsigned exclude)
{
    bool free_choice = (cpu->sys.gcr & GCR_RRND) != 0;
    if (free_choice && exclude == 0xffff)
        return 0;
    if (free_choice && !(cpu->sys.rgsr >> RGSR_SEED_SHIFT & 0xffff)) {
        uint64_t seed = (cpu->machine->seed ^ cpu->index) & 0xffff;
        cpu->sys.rgsr |= (seed ? seed : 1) << RGSR_SEED_SHIFT;
    }
    unsigned start = cpu->sys.rgsr & RGSR_TAG;
    unsigned tag = choose_tag(start, random_tag(cpu), exclude);
    cpu->sys.rgsr = (cpu->sys.rgsr & ~RGSR_TAG) | tag;
    return tag;
}

static void run_irg(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t address = cpu->x[insn->rn];
    unsigned exclude = (cpu->x[insn->rm] | cpu->sys.gcr) & 0xffff;
    unsigned tag = tags_enabled(cpu, 0) ? draw_tag(cpu, exclude) : 0;
    cpu->x[insn->rd] = with_logical_tag(address, tag);
}

static void run_gmi(struct vcpu *cpu, const struct insn *insn)
{
    cpu->x[insn->rd] = cpu->x[insn->rm] | 1ull << logical_tag(cpu->x[insn->rn]);
}

static void run_subp(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t a = (uint64_t)sign_extend(cpu->x[insn->rn], 56);
    uint64_t b = (uint64_t)sign_extend(cpu->x[insn->rm], 56);
    cpu->x[insn->rd] = a - b;
}

static void run_subps(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t a = (uint64_t)sign_extend(cpu->x[insn->rn], 56);
    uint64_t b = (uint64_t)sign_extend(cpu->x[insn->rm], 56);
    cpu->x[insn->rd] = add_with_carry64(a, ~b, 1, &cpu->nzcv);
}

bool decode_tag_two_source(uint32_t word, struct insn *insn)
{
    unsigned opcode = BITS(word, 15, 10);
    bool set_flags = BIT(word, 29);
    if (!BIT(word, 31) || (set_flags && opcode))
        return false;
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    if (opcode == 0)
        insn->rm = slot_or_sp(BITS(word, 20, 16));
    if (opcode == 4)
        insn->rd = slot_or_sp(BITS(word, 4, 0));
    insn->run = opcode == 4 ? run_irg : opcode == 5 ? run_gmi : set_flags ? run_subps : run_subp;
    return true;
}

/* imm is the address offset, already negated for SUBG; amount is the tag offset. */
static void run_addg(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t address = cpu->x[insn->rn];
    unsigned exclude = cpu->sys.gcr & 0xffff;
    unsigned tag =
        tags_enabled(cpu, 0) ? choose_tag(logical_tag(address), insn->amount, exclude) : 0;
    cpu->x[insn->rd] = with_logical_tag(address + insn->imm, tag);
}

bool decode_tag_arithmetic(uint32_t word, struct insn *insn)
{
    uint64_t offset = (uint64_t)BITS(word, 21, 16) * GRANULE_BYTES;
    if (!BIT(word, 31) || BIT(word, 29) || BIT(word, 22) || BITS(word, 15, 14))
        return false;
    insn->rd = slot_or_sp(BITS(word, 4, 0));
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->imm = BIT(word, 30) ? 0 - offset : offset;
    insn->amount = (uint8_t)BITS(word, 13, 10);
    insn->run = run_addg;
    return true;
}

/* --- tags in memory --- */

static uint8_t with_nibble(uint8_t byte, unsigned granule, unsigned tag)
{
    return granule & 1 ? (uint8_t)((byte & 0x0f) | tag << 4) : (uint8_t)((byte & 0xf0) | tag);
}

static void put_tag(const struct vcpu *cpu, const struct span *span, uint64_t va, unsigned tag)
{
    unsigned granule = (unsigned)(va & (PAGE_BYTES - 1)) / GRANULE_BYTES;
    uint8_t *byte = &span->tags[granule >> 1], before = *byte;
    if (likely(!cpu->machine->shares_tags)) {
        *byte = with_nibble(before, granule, tag);
        return;
    }
    while (!__atomic_compare_exchange_n(byte, &before, with_nibble(before, granule, tag), false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

static void set_granules(struct vcpu *cpu, const struct span *span, uint64_t va, unsigned tag,
                         bool zero_data)
{
    bool store = span->tags && tags_enabled(cpu, 0);
    for (uint32_t done = 0; store && done < span->bytes; done += GRANULE_BYTES)
        put_tag(cpu, span, va + done, tag);
    if (!zero_data)
        return;
    for (uint32_t done = 0; done < span->bytes; done += GRANULE_BYTES)
        clear_monitors(cpu, span->data + done);
    memset(span->data, 0, span->bytes);
}

/* Where the data are not in RAM: a tag access and two stores for each granule. It may run several
 * times, since each answer of a device starts the instruction again. */
static bool set_tags_of_device(struct vcpu *cpu, uint64_t va, unsigned granules, unsigned tag)
{
    for (uint64_t end = va + granules * GRANULE_BYTES; va != end; va += GRANULE_BYTES) {
        struct access access;
        if (!resolve_tags(cpu, va, GRANULE_BYTES, GRANULE_BYTES, ACCESS_WRITE, &access))
            return false;
        set_granules(cpu, &access.spans[0], va, tag, false);
        if (!zero_device(cpu, va, GRANULE_BYTES))
            return false;
    }
    return true;
}

/* Writes `granules` allocation tags from `va` on, and zeros the data if asked to. The range
 * crosses at most one page end; `flags` are those besides the plain ones. Memory that is not
 * Tagged gets no tag, whatever lies behind it; nor does any with ATA = 0. */
static bool set_tags(struct vcpu *cpu, uint64_t va, unsigned granules, unsigned tag,
                     bool zero_data, unsigned flags)
{
    uint64_t address = strip_top_byte(cpu, va), offset = address & (PAGE_BYTES - 1);
    uint32_t bytes = granules * GRANULE_BYTES;
    const struct tlb_entry *entry = tlb_slot(cpu, address, 0);
    struct access access = {0};
    flags |= ACCESS_WRITE | ACCESS_UNCHECKED | ACCESS_ALIGNED;
    if (likely(entry->write_key == (address & entry->mask) && !(offset & (GRANULE_BYTES - 1)) &&
               offset + bytes <= PAGE_BYTES && !cpu->machine->armed_monitors)) {
        access.spans[0] = (struct span){entry->data + offset, entry->tags, bytes};
    } else if (zero_data) {
        enum memory_result result = resolve(cpu, va, bytes, GRANULE_BYTES, flags, &access);
        if (result == MEMORY_MMIO)
            return set_tags_of_device(cpu, va, granules, tag);
        if (result == MEMORY_FAULT)
            return false;
    } else if (!resolve_tags(cpu, va, bytes, GRANULE_BYTES, flags, &access)) {
        return false;
    }
    set_granules(cpu, &access.spans[0], va, tag, zero_data);
    if (access.spans[1].bytes)
        set_granules(cpu, &access.spans[1], va + access.spans[0].bytes, tag, zero_data);
    return true;
}

/* insn->shift: bit 0 the base is written back, bit 1 the offset counts before the access. */
enum { WRITE_BACK = 1, OFFSET_FIRST = 2 };

static uint64_t tag_address(const struct vcpu *cpu, const struct insn *insn)
{
    return cpu->x[insn->rn] + (insn->shift & OFFSET_FIRST ? insn->imm : 0);
}

static void write_back(struct vcpu *cpu, const struct insn *insn)
{
    if (insn->shift & WRITE_BACK)
        cpu->x[insn->rn] += insn->imm;
}

/* STG, ST2G, STZG, STZ2G: amount is the number of granules, size whether data is zeroed. */
static void run_store_tag(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t address = tag_address(cpu, insn);
    unsigned tag = logical_tag(cpu->x[insn->rd]);
    if (stack_is_aligned(cpu, insn) && set_tags(cpu, address, insn->amount, tag, insn->size, 0))
        write_back(cpu, insn);
}

void run_store_tag_pair(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t updated = cpu->x[insn->rn] + insn->imm; /* shift as run_store_pair has it */
    uint64_t address = insn->shift == 1 ? cpu->x[insn->rn] : updated;
    uint64_t data[2] = {cpu->x[insn->rd], cpu->x[insn->ra]};
    unsigned flags = ACCESS_WRITE | ACCESS_UNCHECKED | ACCESS_ALIGNED;
    struct access access;
    if (!stack_is_aligned(cpu, insn))
        return;
    enum memory_result result =
        resolve(cpu, address, GRANULE_BYTES, GRANULE_BYTES, flags, &access);
    if (result == MEMORY_FAULT)
        return;
    if (result == MEMORY_MMIO) {
        if (!resolve_tags(cpu, address, GRANULE_BYTES, GRANULE_BYTES, flags, &access) ||
            !write_slow(cpu, address, GRANULE_BYTES, sizeof data[0], flags, data))
            return;
    } else {
        clear_monitors(cpu, access.spans[0].data);
        memcpy(access.spans[0].data, data, sizeof data);
        set_granules(cpu, &access.spans[0], address, logical_tag(address), false);
    }
    if (insn->shift)
        cpu->x[insn->rn] = updated;
}

static void run_load_tag(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t va = (cpu->x[insn->rn] + insn->imm) & ~(uint64_t)(GRANULE_BYTES - 1);
    uint64_t address = strip_top_byte(cpu, va);
    const struct tlb_entry *entry = tlb_slot(cpu, address, 0);
    struct access access = {.spans[0].tags = entry->tags};
    unsigned tag = 0;
    if (!stack_is_aligned(cpu, insn))
        return;
    if (unlikely(entry->read_key != (address & entry->mask)) &&
        !resolve_tags(cpu, va, GRANULE_BYTES, 1, ACCESS_READ, &access))
        return;
    if (access.spans[0].tags && tags_enabled(cpu, 0))
        tag = tag_at(access.spans[0].tags, (address & (PAGE_BYTES - 1)) / GRANULE_BYTES);
    cpu->x[insn->rd] = with_logical_tag(cpu->x[insn->rm], tag);
}

/* --- blocks of granules: LDGM, STGM, STZGM, and DC GVA and its kin --- */

static void run_load_tags(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t address = cpu->x[insn->rn] & ~(uint64_t)(LDGM_BYTES - 1), tags = 0;
    struct access access;
    if (!cpu->el) {
        raise_undefined(cpu);
        return;
    }
    if (!stack_is_aligned(cpu, insn) ||
        !resolve_tags(cpu, address, LDGM_BYTES, 1, ACCESS_READ, &access))
        return;
    if (access.spans[0].tags && tags_enabled(cpu, 0))
        memcpy(&tags, access.spans[0].tags + (address & (PAGE_BYTES - 1)) / 32, sizeof tags);
    cpu->x[insn->rd] = tags;
}

static void run_store_tags(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t address = cpu->x[insn->rn] & ~(uint64_t)(LDGM_BYTES - 1), tags = cpu->x[insn->rd];
    struct access access;
    if (!cpu->el) {
        raise_undefined(cpu);
        return;
    }
    if (!stack_is_aligned(cpu, insn) ||
        !resolve_tags(cpu, address, LDGM_BYTES, 1, ACCESS_WRITE, &access))
        return;
    if (access.spans[0].tags && tags_enabled(cpu, 0))
        memcpy(access.spans[0].tags + (address & (PAGE_BYTES - 1)) / 32, &tags, sizeof tags);
}

static void run_store_zero_tags(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t address = cpu->x[insn->rn] & ~(uint64_t)(DC_ZVA_BYTES - 1);
    if (!cpu->el)
        raise_undefined(cpu);
    else if (stack_is_aligned(cpu, insn))
        set_tags(cpu, address, DC_ZVA_BYTES / GRANULE_BYTES, cpu->x[insn->rd] & 0xf, true, 0);
}

/* FAR_EL1 of a fault that is not a tag check fault holds the register's address, not the
 * block's (D23.2.42). */
void run_dc_gva(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t va = cpu->x[insn->rd], block = va & ~(uint64_t)(DC_ZVA_BYTES - 1);
    if (!set_tags(cpu, block, DC_ZVA_BYTES / GRANULE_BYTES, logical_tag(va), insn->amount,
                  ACCESS_NO_DEVICE) &&
        !cpu->exit_reason) /* not if the vCPU only leaves for a device */
        cpu->sys.far = va;
}

void run_dc_zva(struct vcpu *cpu, const struct insn *insn)
{
    uint64_t va = cpu->x[insn->rd], block = va & ~(uint64_t)(DC_ZVA_BYTES - 1);
    struct access access;
    enum memory_result result =
        resolve(cpu, block, DC_ZVA_BYTES, 1, ACCESS_WRITE | ACCESS_NO_DEVICE, &access);
    if (result == MEMORY_MMIO) {
        zero_device(cpu, block, DC_ZVA_BYTES);
        return;
    }
    if (result == MEMORY_FAULT) {
        if (BITS(cpu->sys.esr, 5, 0) != FSC_TAG_CHECK)
            cpu->sys.far = va;
        return;
    }
    for (unsigned done = 0; done < DC_ZVA_BYTES; done += 64)
        clear_monitors(cpu, access.spans[0].data + done);
    memset(access.spans[0].data, 0, DC_ZVA_BYTES);
}

/* STZGM, STGM and LDGM have the place of an imm9 and need it to be zero. */
static bool decode_tag_block(uint32_t word, struct insn *insn)
{
    static insn_handler *const handlers[4] = {run_store_zero_tags, NULL, run_store_tags,
                                              run_load_tags};
    unsigned opc = BITS(word, 23, 22);
    insn->run = handlers[opc];
    insn->rd = opc == 3 ? slot_target(BITS(word, 4, 0)) : slot_source(BITS(word, 4, 0));
    return !BITS(word, 20, 12);
}

bool decode_tag_load_store(uint32_t word, struct insn *insn)
{
    static const uint8_t forms[4] = {0, WRITE_BACK, OFFSET_FIRST, WRITE_BACK | OFFSET_FIRST};
    unsigned opc = BITS(word, 23, 22), form = BITS(word, 11, 10), target = BITS(word, 4, 0);
    if (BITS(word, 31, 30) != 3)
        return false;
    insn->rn = slot_or_sp(BITS(word, 9, 5));
    insn->imm = (uint64_t)sign_extend(BITS(word, 20, 12), 9) * GRANULE_BYTES;
    if (form == 0) {
        if (opc != 1)
            return decode_tag_block(word, insn);
        insn->rd = slot_target(target);
        insn->rm = slot_source(target); /* the rest of Xt is kept */
        insn->run = run_load_tag;
        return true;
    }
    insn->rd = slot_or_sp(target);
    insn->shift = forms[form];
    insn->amount = opc & 2 ? 2 : 1;
    insn->size = opc & 1;
    insn->run = run_store_tag;
    return true;
}
