/* The distributor's frame and the redistributors' two, as memory shows them (IHI 0069, 12.8 to
 * 12.11), and their registers as part of the state.
 *
 * The registers per interrupt have the same layout in the distributor and in a redistributor's
 * second frame (SGI_base), which has the first word of each group: the private interrupts. So one
 * set of functions serves both, and asks for the bank that a word stands for: none for the
 * distributor's first word and for interrupts that do not exist, which read as zero and ignore
 * writes. So do accesses of another size than a register permits: the vGIC aborts none either. */
#include "cpu.h"

/* Of the distributor. */
enum {
    GICD_CTLR = 0x0000,
    GICD_TYPER = 0x0004,
    GICD_IIDR = 0x0008,
    GICD_STATUSR = 0x0010,
    GICD_IROUTER = 0x6000,
    GICD_IROUTER_END = 0x8000,
};

/* Of a redistributor's first frame, RD_base. */
enum {
    GICR_CTLR = 0x0000,
    GICR_IIDR = 0x0004,
    GICR_TYPER = 0x0008,
    GICR_TYPER_HIGH = 0x000c,
};

/* Of both; the offsets of the groups with a bit per interrupt are 0x80 apart. */
enum {
    IGROUPR = 0x0080,
    ISENABLER = 0x0100,
    ICENABLER = 0x0180,
    ISPENDR = 0x0200,
    ICPENDR = 0x0280,
    ISACTIVER = 0x0300,
    ICACTIVER = 0x0380,
    IPRIORITYR = 0x0400,
    IPRIORITYR_END = 0x0800,
    ICFGR = 0x0c00,
    ICFGR_END = 0x0d00,
    PIDR2 = 0xffe8,
};

#define CTLR_ENABLE_GROUP_1 2u
#define CTLR_ARE_DS 0x50u /* affinity routing, one security state */
#define TYPER_ID_BITS (9u << 19) /* INTIDs have 10 bits */
#define IIDR_PRODUCT 0x4b00043bu /* KVM's vGIC: what a guest sees of it is what it sees here */
#define IIDR_REVISION_SHIFT 12
#define GICR_CTLR_REVISION_3 6u /* CES, IR: what enables LPIs may be written at any time */
#define TYPER_LAST 0x10u
#define PIDR2_GICV3 0x3bu
#define PRIORITY_BITS 0xf8u /* 5, as KVM's vGIC has */
#define AFFINITY_BITS 0xffffffu

/* Where an access goes: a frame of the distributor (no owner) or of the owner's redistributor. */
struct place {
    struct ta_machine *machine;
    struct vcpu *owner;
    uint32_t offset;
};

static struct place find_place(struct ta_machine *machine, uint64_t gpa)
{
    const struct gic *gic = machine->gic;
    uint64_t offset = gpa - gic->distributor;
    if (offset < GIC_FRAME_BYTES)
        return (struct place){machine, NULL, (uint32_t)offset};
    offset = gpa - gic->redistributors;
    return (struct place){machine, &machine->vcpus[offset / GIC_REDISTRIBUTOR_BYTES],
                          (uint32_t)(offset % GIC_REDISTRIBUTOR_BYTES)};
}

/* True if the place is where registers per interrupt are; the offset is then as in both. */
static bool per_interrupt(const struct place *place, uint32_t *offset)
{
    *offset = place->offset % GIC_FRAME_BYTES;
    return !place->owner || place->offset >= GIC_FRAME_BYTES;
}

/* The bank for word `word` of a group, or NULL. */
static struct gic_bank *bank_at(const struct place *place, uint32_t word)
{
    if (place->owner)
        return word ? NULL : &place->owner->gic_private.bank;
    return word && word <= place->machine->gic->spi_words ? &place->machine->gic->spis[word - 1]
                                                          : NULL;
}

/* --- a bit per interrupt --- */

static uint32_t *bits_of(struct gic_bank *bank, uint32_t group)
{
    switch (group) {
    case IGROUPR:
        return &bank->group;
    case ISENABLER: case ICENABLER:
        return &bank->enabled;
    case ISPENDR: case ICPENDR:
        return &bank->latch;
    default:
        return &bank->active;
    }
}

static bool is_bit_group(uint32_t offset)
{
    return offset >= IGROUPR && offset < IPRIORITYR;
}

static uint32_t read_bits(const struct place *place, uint32_t offset)
{
    struct gic_bank *bank = bank_at(place, offset % 0x80 / 4);
    uint32_t group = offset & ~0x7fu;
    if (!bank)
        return 0;
    if (group == ISPENDR || group == ICPENDR)
        return bank->latch | (bank->level & ~bank->edge);
    return *bits_of(bank, group);
}

static void write_bits(const struct place *place, uint32_t offset, uint32_t value)
{
    struct gic_bank *bank = bank_at(place, offset % 0x80 / 4);
    uint32_t group = offset & ~0x7fu;
    if (!bank)
        return;
    if (group == IGROUPR)
        bank->group = value;
    else if (group & 0x80)
        *bits_of(bank, group) &= ~value; /* IC..R */
    else
        *bits_of(bank, group) |= value; /* IS..R */
}

/* --- priorities, a byte per interrupt --- */

static uint8_t *priorities(const struct place *place, uint32_t offset)
{
    uint32_t intid = offset - IPRIORITYR;
    struct gic *gic = place->machine->gic;
    if (place->owner)
        return intid < GIC_PRIVATE ? &place->owner->gic_private.priority[intid] : NULL;
    return bank_at(place, intid / 32) ? &gic->priority[intid - GIC_PRIVATE] : NULL;
}

static uint32_t read_priorities(const struct place *place, uint32_t offset, uint32_t size)
{
    const uint8_t *from = priorities(place, offset);
    uint32_t value = 0;
    for (uint32_t i = 0; from && i < size; i++)
        value |= (uint32_t)from[i] << 8 * i;
    return value;
}

static void write_priorities(const struct place *place, uint32_t offset, uint32_t size,
                             uint32_t value)
{
    uint8_t *to = priorities(place, offset);
    for (uint32_t i = 0; to && i < size; i++)
        to[i] = (uint8_t)(value >> 8 * i & PRIORITY_BITS);
}

/* --- ICFGR, two bits per interrupt; the upper one says edge-triggered --- */

static uint32_t read_config(const struct place *place, uint32_t offset)
{
    const struct gic_bank *bank = bank_at(place, (offset - ICFGR) / 8);
    uint32_t half = bank ? bank->edge >> (offset & 4 ? 16 : 0) & 0xffff : 0, value = 0;
    for (uint32_t i = 0; i < 16; i++)
        value |= (half >> i & 1) << (2 * i + 1);
    return value;
}

/* SGIs are edge-triggered, and PPIs level-sensitive, for ever: a timer's line is a level. */
static void write_config(const struct place *place, uint32_t offset, uint32_t value)
{
    struct gic_bank *bank = bank_at(place, (offset - ICFGR) / 8);
    uint32_t shift = offset & 4 ? 16 : 0, half = 0;
    if (!bank || place->owner)
        return;
    for (uint32_t i = 0; i < 16; i++)
        half |= (value >> (2 * i + 1) & 1) << i;
    bank->edge = (bank->edge & ~(0xffffu << shift)) | half << shift;
}

/* --- IROUTER: 64 bits per SPI, of which Aff2 to Aff0 are there --- */

static uint32_t *route_at(const struct place *place, uint32_t offset)
{
    uint32_t intid = (offset - GICD_IROUTER) / 8;
    return bank_at(place, intid / 32) && !(offset & 4)
               ? &place->machine->gic->route[intid - GIC_PRIVATE]
               : NULL;
}

static bool is_route(const struct place *place)
{
    return !place->owner && place->offset >= GICD_IROUTER && place->offset < GICD_IROUTER_END;
}

/* --- the registers that are one --- */

static uint32_t iidr(const struct place *place)
{
    return IIDR_PRODUCT | place->machine->gic->revision << IIDR_REVISION_SHIFT;
}

static uint32_t read_distributor(const struct place *place)
{
    const struct gic *gic = place->machine->gic;
    switch (place->offset) {
    case GICD_CTLR:
        return CTLR_ARE_DS | (gic->enabled ? CTLR_ENABLE_GROUP_1 : 0);
    case GICD_TYPER:
        return gic->spi_words | TYPER_ID_BITS;
    case GICD_IIDR:
        return iidr(place);
    case GICD_STATUSR:
        return ~0u; /* as the vGIC's */
    case PIDR2:
        return PIDR2_GICV3;
    default:
        return 0; /* TYPER2, and what is not here */
    }
}

static uint64_t redistributor_type(const struct vcpu *owner)
{
    bool last = owner->index == owner->machine->vcpu_count - 1;
    return (uint64_t)vcpu_affinity(owner->index) << 32 | owner->index << 8 |
           (last ? TYPER_LAST : 0);
}

static uint32_t read_redistributor(const struct place *place)
{
    switch (place->offset) {
    case GICR_CTLR:
        return place->machine->gic->revision >= 3 ? GICR_CTLR_REVISION_3 : 0;
    case GICR_IIDR:
        return IIDR_PRODUCT;
    case GICR_TYPER:
        return (uint32_t)redistributor_type(place->owner);
    case GICR_TYPER_HIGH:
        return (uint32_t)(redistributor_type(place->owner) >> 32);
    case PIDR2:
        return PIDR2_GICV3;
    default:
        return 0; /* WAKER: never asleep; STATUSR, PROPBASER, PENDBASER, SYNCR: no LPIs */
    }
}

/* --- accesses --- */

static uint32_t read_word(const struct place *place)
{
    uint32_t offset;
    if (!per_interrupt(place, &offset))
        return read_redistributor(place);
    if (is_bit_group(offset))
        return read_bits(place, offset);
    if (offset >= IPRIORITYR && offset < IPRIORITYR_END)
        return read_priorities(place, offset, 4);
    if (offset >= ICFGR && offset < ICFGR_END)
        return read_config(place, offset);
    if (is_route(place))
        return route_at(place, offset) ? *route_at(place, offset) : 0;
    return place->owner ? 0 : read_distributor(place);
}

static void write_word(const struct place *place, uint32_t value)
{
    uint32_t offset;
    if (!per_interrupt(place, &offset))
        return;
    if (is_bit_group(offset))
        write_bits(place, offset, value);
    else if (offset >= IPRIORITYR && offset < IPRIORITYR_END)
        write_priorities(place, offset, 4, value);
    else if (offset >= ICFGR && offset < ICFGR_END)
        write_config(place, offset, value);
    else if (is_route(place) && route_at(place, offset))
        *route_at(place, offset) = value & AFFINITY_BITS;
    else if (!place->owner && offset == GICD_CTLR)
        place->machine->gic->enabled = (value & CTLR_ENABLE_GROUP_1) != 0;
}

/* Whether a register of 64 bits is there; all of these have a word each beside it. */
static bool is_long(const struct place *place)
{
    return is_route(place) || (place->owner && place->offset == GICR_TYPER);
}

static bool is_priority(const struct place *place)
{
    uint32_t offset;
    return per_interrupt(place, &offset) && offset >= IPRIORITYR && offset < IPRIORITYR_END;
}

uint64_t gic_read(struct vcpu *cpu, uint64_t gpa, uint32_t size)
{
    struct place place = find_place(cpu->machine, gpa);
    struct place upper = {place.machine, place.owner, place.offset + 4};
    if (gpa & (size - 1))
        return 0;
    if (size == 1 && is_priority(&place))
        return read_priorities(&place, place.offset % GIC_FRAME_BYTES, 1);
    if (size == 8 && is_long(&place))
        return read_word(&place) | (uint64_t)read_word(&upper) << 32;
    return size == 4 ? read_word(&place) : 0;
}

void gic_write(struct vcpu *cpu, uint64_t gpa, uint32_t size, uint64_t value)
{
    struct place place = find_place(cpu->machine, gpa);
    if (gpa & (size - 1))
        return;
    if (size == 1 && is_priority(&place))
        write_priorities(&place, place.offset % GIC_FRAME_BYTES, 1, (uint32_t)value);
    else if (size == 4 || (size == 8 && is_long(&place)))
        write_word(&place, (uint32_t)value); /* the upper half of an IROUTER is Aff3: not here */
    gic_update_all(cpu->machine);
}

/* --- state: ISENABLER, ISPENDR and ISACTIVER are assigned, and ISPENDR is the latch --- */

static uint32_t *state_bits(const struct place *place, uint32_t offset)
{
    struct gic_bank *bank = bank_at(place, offset % 0x80 / 4);
    uint32_t group = offset & ~0x7fu;
    bool is_state = is_bit_group(offset) && (group == IGROUPR || !(group & 0x80));
    return bank && is_state ? bits_of(bank, group) : NULL;
}

/* KVM has known two revisions of what a guest sees since it shows it. */
static bool set_iidr(const struct place *place, uint32_t value)
{
    uint32_t revision = value >> IIDR_REVISION_SHIFT & 0xf;
    if ((value & ~(0xfu << IIDR_REVISION_SHIFT)) != IIDR_PRODUCT || revision < 2 || revision > 3)
        return false;
    place->machine->gic->revision = revision;
    return true;
}

bool gic_get_frame_state(struct ta_machine *machine, struct vcpu *owner, uint32_t offset,
                         uint32_t *value)
{
    struct place place = {machine, owner, offset};
    uint32_t inside;
    if (offset % 4 || offset >= (owner ? GIC_REDISTRIBUTOR_BYTES : GIC_FRAME_BYTES))
        return false;
    bool has_bits = per_interrupt(&place, &inside) && state_bits(&place, inside);
    *value = has_bits ? *state_bits(&place, inside) : read_word(&place);
    return true;
}

bool gic_set_frame_state(struct ta_machine *machine, struct vcpu *owner, uint32_t offset,
                         uint32_t value)
{
    struct place place = {machine, owner, offset};
    uint32_t inside, before, after;
    if (!gic_get_frame_state(machine, owner, offset, &before))
        return false;
    if (!owner && offset == GICD_IIDR)
        return set_iidr(&place, value);
    if (per_interrupt(&place, &inside) && state_bits(&place, inside)) {
        *state_bits(&place, inside) = value;
        return true;
    }
    write_word(&place, value);
    gic_get_frame_state(machine, owner, offset, &after);
    if (after == value)
        return true;
    write_word(&place, before);
    return false;
}
