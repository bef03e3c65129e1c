/* Stage-1 translation with granules of 4, 16 and 64 KiB (DDI 0487 D8), and the TLB's upkeep.
 *
 * An entry of the TLB is of 4 KiB whatever the granule, as guest RAM, its tags and the dirty log are.
 *
 * There is no ASID and no VMID: a change of a register of the regime (TCR, MAIR, SCTLR) and a TLBI
 * flush all entries of the vCPU, or of all vCPUs; that is allowed (a TLB may forget at any time)
 * and needs no tracking of what an entry depended on. What kernels do often costs less: TTBR0 and
 * TTBR1 flush their half of the addresses, and nothing if only the ASID changes, for the entries
 * are always those of the present tables; a TLBI by address flushes its page, if no block is in the
 * TLB around it. An entry's key already means "this privilege may read here": EL0, and EL1 with and
 * without PSTATE.PAN, have tables of their own, so that LDTR, exceptions and PAN flush nothing.
 *
 * A walk reads descriptors from RAM as they are now and sets no Access flag (HAFDBS is not
 * claimed): it has no side effects, and AT and a failed access leave no trace. */
#include "memory.h"

enum { OUTPUT_BITS = 48 };

#define ADDRESS_BITS ((1ull << OUTPUT_BITS) - 1)
#define DESCRIPTOR_AF (1ull << 10)
#define DESCRIPTOR_RO (1ull << 7)
#define DESCRIPTOR_EL0 (1ull << 6)
#define DESCRIPTOR_PXN (1ull << 53)
#define DESCRIPTOR_UXN (1ull << 54)
#define TABLE_PXN (1ull << 59)
#define TABLE_UXN (1ull << 60)
#define TABLE_NO_EL0 (1ull << 61)
#define TABLE_RO (1ull << 62)
#define ATTRIBUTE_NORMAL_TAGGED 0xf0

void update_tag_checks(struct vcpu *cpu)
{
    uint64_t sctlr = cpu->sys.sctlr;
    cpu->check_tags[0] =
        (sctlr & SCTLR_ATA0) && (sctlr >> SCTLR_TCF0_SHIFT & 3) && !cpu->tco;
    cpu->check_tags[1] = (sctlr & SCTLR_ATA) && (sctlr >> SCTLR_TCF_SHIFT & 3) && !cpu->tco;
    cpu->checks_tags = cpu->check_tags[cpu->el];
}

void select_tlb(struct vcpu *cpu)
{
    cpu->data_tlb = cpu->tlb[!cpu->el ? 0 : cpu->pan ? 1 : 2];
}

void update_memory_mode(struct vcpu *cpu)
{
    select_tlb(cpu);
    cpu->tbi[0] = BIT(cpu->sys.tcr, TCR_TBI0_SHIFT);
    cpu->tbi[1] = BIT(cpu->sys.tcr, TCR_TBI0_SHIFT + 1);
    cpu->strict_alignment = (cpu->sys.sctlr & SCTLR_A) != 0;
    cpu->fetch_page = NO_PAGE; /* EL or IL may have changed */
    update_tag_checks(cpu);
}

static void forget(struct tlb_entry *entry)
{
    entry->read_key = entry->write_key = NO_PAGE;
}

static bool is_in_half(const struct tlb_entry *entry, unsigned half)
{
    return BIT(entry->read_key != NO_PAGE ? entry->read_key : entry->write_key, 55) == half;
}

void flush_tlb_half(struct vcpu *cpu, unsigned half)
{
    for (unsigned table = 0; table < 3; table++)
        for (unsigned i = 0; i < TLB_ENTRIES; i++)
            if (is_in_half(&cpu->tlb[table][i], half))
                forget(&cpu->tlb[table][i]);
    for (unsigned el = 0; el < 2; el++)
        for (unsigned i = 0; i < FETCH_TLB_ENTRIES; i++)
            if (BIT(cpu->fetch_tlb[el][i].key, 55) == half)
                cpu->fetch_tlb[el][i].key = NO_PAGE;
    memset(cpu->tlb_blocks[half], 0, sizeof cpu->tlb_blocks[half]);
    cpu->tlb_large_blocks[half] = 0;
    cpu->fetch_page = NO_PAGE;
}

static uint64_t *block_set(struct vcpu *cpu, uint64_t address, uint64_t *bit)
{
    uint64_t number = address >> BLOCK_SHIFT;
    *bit = 1ull << (number & 63);
    return &cpu->tlb_blocks[BIT(address, 55)][number / 64 % BLOCK_SETS];
}

static uint64_t large_block_bit(uint64_t address)
{
    return 1ull << (address >> LARGE_BLOCK_SHIFT & 63);
}

void note_block(struct vcpu *cpu, uint64_t address, unsigned shift)
{
    uint64_t bit;
    if (shift > BLOCK_SHIFT)
        cpu->tlb_large_blocks[BIT(address, 55)] |= large_block_bit(address);
    else if (shift)
        *block_set(cpu, address, &bit) |= bit;
}

static bool may_be_in_block(struct vcpu *cpu, uint64_t address)
{
    uint64_t bit, *set = block_set(cpu, address, &bit);
    return (*set & bit) || (cpu->tlb_large_blocks[BIT(address, 55)] & large_block_bit(address));
}

/* log2 of the granule's bytes, by TCR_EL1.TG0 or TG1. Which one a reserved value means is ours to
 * choose (D24.2). */
static unsigned granule_shift(uint64_t tcr, unsigned half)
{
    static const uint8_t shifts[2][4] = {{12, 16, 14, 12}, {12, 14, 12, 16}};
    return shifts[half][tcr >> (half ? TCR_TG1_SHIFT : TCR_TG0_SHIFT) & 3];
}

static void flush_entries(struct vcpu *cpu, uint64_t page)
{
    for (unsigned table = 0; table < 3; table++)
        forget(&cpu->tlb[table][page % TLB_ENTRIES]);
    for (unsigned el = 0; el < 2; el++)
        cpu->fetch_tlb[el][page % FETCH_TLB_ENTRIES].key = NO_PAGE;
}

void flush_tlb_page(struct vcpu *cpu, uint64_t address)
{
    unsigned half = BIT(address, 55);
    uint64_t entries = 1ull << (granule_shift(cpu->sys.tcr, half) - PAGE_SHIFT);
    uint64_t first = (address >> PAGE_SHIFT) & ~(entries - 1);
    if (may_be_in_block(cpu, address)) {
        flush_tlb_half(cpu, half); /* the block's other pages are entries, too */
        return;
    }
    for (uint64_t page = first; page < first + entries; page++)
        flush_entries(cpu, page);
    cpu->fetch_page = NO_PAGE;
}

void flush_tlb(struct vcpu *cpu)
{
    flush_tlb_half(cpu, 0);
    flush_tlb_half(cpu, 1);
}

void flush_all_tlbs(struct ta_machine *machine)
{
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        flush_tlb(&machine->vcpus[i]);
}

static struct translation fault(uint32_t fsc)
{
    return (struct translation){.fsc = fsc};
}

static unsigned physical_bits(uint64_t tcr)
{
    static const uint8_t bits[8] = {32, 36, 40, 42, 44, 48, 48, 48};
    return bits[tcr >> 32 & 7];
}

static struct translation translate_flat(uint64_t address, unsigned flags)
{
    if (address >> OUTPUT_BITS)
        return fault(FSC_ADDRESS_SIZE);
    return (struct translation){.gpa = address,
                                .ok = true,
                                .device = !(flags & ACCESS_FETCH),
                                .readable = true,
                                .writable = true};
}

/* The limits that the levels above the leaf impose; `table` accumulates them. */
static bool permits(const struct vcpu *cpu, uint64_t leaf, uint64_t table, unsigned flags,
                    unsigned privilege, struct translation *result)
{
    bool el0 = (leaf & DESCRIPTOR_EL0) && !(table & TABLE_NO_EL0);
    bool read_only = (leaf & DESCRIPTOR_RO) || (table & TABLE_RO);
    if (privilege) {
        bool pan = cpu->pan && el0 && !(flags & ACCESS_FETCH);
        result->readable = !pan;
        result->writable = !pan && !read_only;
    } else {
        result->readable = el0;
        result->writable = el0 && !read_only;
    }
    if (flags & ACCESS_FETCH) {
        bool wxn = (cpu->sys.sctlr & SCTLR_WXN) && result->writable;
        bool xn = privilege ? (leaf & DESCRIPTOR_PXN) || (table & TABLE_PXN) ||
                                  (el0 && !read_only)
                            : (leaf & DESCRIPTOR_UXN) || (table & TABLE_UXN);
        return !xn && !wxn;
    }
    return flags & ACCESS_WRITE ? result->writable : result->readable;
}

static struct translation finish(struct vcpu *cpu, uint64_t leaf, uint64_t table,
                                 unsigned level, uint64_t gpa, unsigned flags,
                                 unsigned privilege)
{
    struct translation result = {.gpa = gpa, .ok = true};
    if (gpa >> physical_bits(cpu->sys.tcr))
        return fault(FSC_ADDRESS_SIZE + level);
    if (!(leaf & DESCRIPTOR_AF))
        return fault(FSC_ACCESS_FLAG + level);
    if (!permits(cpu, leaf, table, flags, privilege, &result)) {
        result.ok = false;
        result.fsc = FSC_PERMISSION + level;
        return result;
    }
    result.attribute = (uint8_t)(cpu->sys.mair >> ((leaf >> 2 & 7) * 8));
    result.tagged = result.attribute == ATTRIBUTE_NORMAL_TAGGED;
    result.device = !(result.attribute & 0xf0);
    return result;
}

/* Level 3 has only pages; blocks are at level 2 and, with the smallest granule, at level 1. */
static bool is_leaf(uint64_t descriptor, unsigned level)
{
    return level == 3 || !(descriptor & 2);
}

static bool is_valid(uint64_t descriptor, unsigned level, unsigned granule)
{
    bool may_be_block = level == 2 || (level == 1 && granule == PAGE_SHIFT);
    return (descriptor & 1) && (may_be_block || (descriptor & 2));
}

struct translation translate(struct vcpu *cpu, uint64_t address, unsigned flags,
                             unsigned privilege)
{
    uint64_t tcr = cpu->sys.tcr;
    if (!(cpu->sys.sctlr & SCTLR_M))
        return translate_flat(address, flags);
    unsigned half = BIT(address, 55);
    unsigned size_field = tcr >> (half ? 16 : 0) & 0x3f;
    unsigned input_bits = 64 - (size_field < 16 ? 16 : size_field > 39 ? 39 : size_field);
    uint64_t above = (half ? ~address : address) >> input_bits;
    if (above)
        return fault(FSC_TRANSLATION);
    if (tcr & (half ? TCR_EPD1 : TCR_EPD0))
        return fault(FSC_TRANSLATION);

    unsigned granule = granule_shift(tcr, half), stride = granule - 3;
    unsigned level = 3 - (input_bits - granule - 1) / stride;
    unsigned first_bits = input_bits - (granule + stride * (3 - level));
    uint64_t base = (half ? cpu->sys.ttbr1 : cpu->sys.ttbr0) & 0x0000fffffffffffeull &
                    ~((8ull << first_bits) - 1);
    uint64_t table = 0, index_mask = (1ull << first_bits) - 1;
    bool hierarchical = !BIT(tcr, TCR_HPD0_SHIFT + half);
    for (;; level++, index_mask = (1ull << stride) - 1) {
        unsigned shift = granule + stride * (3 - level);
        uint64_t entry = base + ((address >> shift & index_mask) << 3), descriptor;
        const struct ram_region *ram = find_ram(cpu->machine, entry, 8);
        if (!ram)
            return fault(FSC_EXTERNAL_ON_WALK + level);
        memcpy(&descriptor, ram->data + (entry - ram->gpa), 8);
        if (!is_valid(descriptor, level, granule))
            return fault(FSC_TRANSLATION + level);
        base = descriptor & ADDRESS_BITS & ~((1ull << granule) - 1);
        if (is_leaf(descriptor, level)) {
            uint64_t inside = (1ull << shift) - 1;
            uint64_t gpa = (base & ~inside) | (address & inside);
            struct translation found =
                finish(cpu, descriptor, table, level, gpa, flags, privilege);
            found.block_shift = level == 3 ? 0 : (uint8_t)shift;
            return found;
        }
        if (base >> physical_bits(tcr))
            return fault(FSC_ADDRESS_SIZE + level);
        if (hierarchical)
            table |= descriptor;
    }
}

static const uint8_t *translate_fetch(struct vcpu *cpu, uint64_t pc)
{
    struct translation result = translate(cpu, pc, ACCESS_FETCH, cpu->el);
    const struct ram_region *ram = NULL;
    note_block(cpu, pc, result.block_shift);
    if (result.ok) {
        ram = find_ram(cpu->machine, result.gpa & PAGE_MASK, PAGE_BYTES);
        result.fsc = FSC_EXTERNAL;
    }
    if (ram)
        return ram->data + ((result.gpa & PAGE_MASK) - ram->gpa);
    raise_with_address(cpu, EC_INSTRUCTION_ABORT + (cpu->el ? 1u : 0u), result.fsc, pc);
    return NULL;
}

/* The slow half of instruction fetch: PSTATE.IL, alignment, translation. */
bool fetch_page(struct vcpu *cpu)
{
    uint64_t pc = cpu->pc, page = pc & PAGE_MASK;
    unsigned slot = pc >> PAGE_SHIFT & (FETCH_TLB_ENTRIES - 1);
    cpu->fetch_page = NO_PAGE;
    if (cpu->il) {
        raise_exception(cpu, EC_ILLEGAL_STATE, 0);
        return false;
    }
    if (pc & 3) {
        raise_with_address(cpu, EC_PC_ALIGNMENT, 0, pc);
        return false;
    }
    struct fetch_entry *entry = &cpu->fetch_tlb[cpu->el][slot];
    if (entry->key != page) {
        const uint8_t *data = translate_fetch(cpu, pc);
        if (!data)
            return false;
        entry->key = page;
        entry->data = data;
        entry->insns = code_page_of(cpu->machine, data);
    }
    cpu->fetch_data = entry->data;
    cpu->fetch_insns = entry->insns;
    if (unlikely(cpu->watches_fetch) && has_breakpoint(cpu, page)) {
        if (!is_breakpoint(cpu, pc))
            return true; /* and ask again at the next instruction */
        raise_breakpoint(cpu);
        return false;
    }
    cpu->fetch_page = page;
    return true;
}
