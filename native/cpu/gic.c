/* The GIC's core: which interrupt is signalled to which vCPU (IHI 0069, chapters 4 and 12).
 *
 * After each change the answer is computed anew from the state, a word of 32 interrupts at a time:
 * there is no queue or cache of pending interrupts that could disagree with the registers, and a
 * state that is loaded needs nothing but the registers. Changes are rare beside instructions. */
#include <errno.h>
#include <stdlib.h>

#include "cpu.h"
#include "identity.h"


static struct gic *gic_of(const struct vcpu *cpu)
{
    return cpu->machine->gic;
}

struct gic_bank *gic_bank_of(struct vcpu *cpu, uint32_t intid)
{
    struct gic *gic = gic_of(cpu);
    if (intid < GIC_PRIVATE)
        return &cpu->gic_private.bank;
    uint32_t word = intid / 32 - 1;
    return word < gic->spi_words ? &gic->spis[word] : NULL;
}

uint8_t *gic_priority_of(struct vcpu *cpu, uint32_t intid)
{
    return intid < GIC_PRIVATE ? &cpu->gic_private.priority[intid]
                               : &gic_of(cpu)->priority[intid - GIC_PRIVATE];
}

/* Those of a bank that may be signalled: an active one is not, also if it is pending again. */
static uint32_t ready(const struct gic_bank *bank, const struct gic_interface *interface)
{
    uint32_t pending = bank->latch | (bank->level & ~bank->edge);
    uint32_t groups = (interface->enabled[GROUP_1] ? bank->group : 0) |
                      (interface->enabled[GROUP_0] ? ~bank->group : 0);
    return pending & bank->enabled & ~bank->active & groups;
}

/* The lowest INTID wins among equals, as it does in KVM. */
static void consider(struct gic_candidate *best, uint32_t intid, uint8_t priority,
                     const struct gic_bank *bank)
{
    if (best->intid == GIC_SPURIOUS || priority < best->priority)
        *best = (struct gic_candidate){intid, priority, bank->group >> (intid % 32) & 1};
}

struct gic_candidate gic_highest(const struct vcpu *cpu)
{
    const struct gic *gic = gic_of(cpu);
    const struct gic_interface *interface = &cpu->gic_interface;
    struct gic_candidate best = {.intid = GIC_SPURIOUS, .priority = GIC_IDLE_PRIORITY};
    if (!gic->enabled)
        return best;
    const struct gic_bank *own = &cpu->gic_private.bank;
    for (uint32_t left = ready(own, interface); left; left &= left - 1) {
        uint32_t intid = (uint32_t)__builtin_ctz(left);
        consider(&best, intid, cpu->gic_private.priority[intid], own);
    }
    for (uint32_t word = 0; word < gic->spi_words; word++) {
        const struct gic_bank *bank = &gic->spis[word];
        for (uint32_t left = ready(bank, interface); left; left &= left - 1) {
            uint32_t spi = word * 32 + (uint32_t)__builtin_ctz(left);
            if (gic->route[spi] == vcpu_affinity(cpu->index))
                consider(&best, spi + GIC_PRIVATE, gic->priority[spi], bank);
        }
    }
    return best;
}

/* What takes part in preemption: a binary point of n leaves out the low n bits in group 1, and one
 * more in group 0, whose binary point is also group 1's if CBPR says so (IHI 0069, 4.8.3). */
uint8_t gic_group_priority(const struct vcpu *cpu, uint8_t priority, unsigned group)
{
    const struct gic_interface *interface = &cpu->gic_interface;
    bool by_group_0 = group == GROUP_0 || interface->common_binary_point;
    unsigned ignored = by_group_0 ? interface->binary_point[GROUP_0] + 1u
                                  : interface->binary_point[GROUP_1];
    return (uint8_t)(priority & 0xffu << ignored);
}

uint8_t gic_running_priority(const struct vcpu *cpu)
{
    const struct gic_interface *interface = &cpu->gic_interface;
    for (unsigned word = 0; word < 4; word++) {
        uint32_t active = interface->active_priorities[GROUP_0][word] |
                          interface->active_priorities[GROUP_1][word];
        if (active) {
            unsigned level = word * 32 + (unsigned)__builtin_ctz(active);
            return (uint8_t)(level << (8 - gic_priority_bits(interface)));
        }
    }
    return GIC_IDLE_PRIORITY;
}

bool gic_is_signalled(const struct vcpu *cpu, struct gic_candidate candidate)
{
    return candidate.intid != GIC_SPURIOUS && candidate.priority < cpu->gic_interface.pmr &&
           gic_group_priority(cpu, candidate.priority, candidate.group) <
               gic_running_priority(cpu);
}

void gic_update(struct vcpu *cpu)
{
    if (!gic_of(cpu))
        return;
    struct gic_candidate candidate = gic_highest(cpu);
    uint32_t lines = 0;
    if (gic_is_signalled(cpu, candidate))
        lines = candidate.group == GROUP_1 ? LINE_IRQ : LINE_FIQ;
    __atomic_store_n(&cpu->lines, lines, __ATOMIC_RELAXED);
    look_for_events(cpu);
}

void gic_update_all(struct ta_machine *machine)
{
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        gic_update(&machine->vcpus[i]);
}

/* --- lines --- */

/* An edge is latched although the line may have fallen again: it is looked at later than it
 * comes. Of a level only what it is now counts. */
void gic_take_inputs(struct ta_machine *machine)
{
    struct gic *gic = machine->gic;
    if (!gic || !__atomic_exchange_n(&gic->inputs_changed, 0, __ATOMIC_ACQUIRE))
        return;
    for (uint32_t word = 0; word < gic->spi_words; word++) {
        struct gic_bank *bank = &gic->spis[word];
        uint32_t rises = __atomic_exchange_n(&gic->rises[word], 0, __ATOMIC_ACQUIRE);
        bank->latch |= rises & bank->edge;
        bank->level = __atomic_load_n(&gic->inputs[word], __ATOMIC_ACQUIRE);
    }
    gic_update_all(machine);
}

int ta_gic_set_line(struct ta_machine *machine, uint32_t intid, uint32_t level)
{
    struct gic *gic = machine->gic;
    if (!gic || intid < GIC_PRIVATE || intid / 32 > gic->spi_words)
        return -1;
    uint32_t word = intid / 32 - 1, bit = 1u << intid % 32;
    if (level) {
        if (!(__atomic_fetch_or(&gic->inputs[word], bit, __ATOMIC_RELEASE) & bit))
            __atomic_fetch_or(&gic->rises[word], bit, __ATOMIC_RELEASE);
    } else {
        __atomic_fetch_and(&gic->inputs[word], ~bit, __ATOMIC_RELEASE);
    }
    __atomic_store_n(&gic->inputs_changed, 1, __ATOMIC_RELEASE);
    return 0;
}

void gic_set_private_level(struct vcpu *cpu, uint32_t intid, bool level)
{
    struct gic_bank *bank = &cpu->gic_private.bank;
    uint32_t bit = 1u << intid, before = bank->level;
    bank->level = level ? before | bit : before & ~bit;
    if (bank->level != before)
        gic_update(cpu);
}

/* --- creation and reset --- */

/* As KVM's vGIC after its creation: all in group 1, SGIs enabled, SPIs to vCPU 0. */
static void reset_gic(struct ta_machine *machine)
{
    struct gic *gic = machine->gic;
    gic->revision = 3;
    gic->enabled = false;
    memset(gic->priority, 0, sizeof gic->priority);
    memset(gic->route, 0, sizeof gic->route);
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        uint32_t sgis = (1u << GIC_SGIS) - 1;
        machine->vcpus[i].gic_private.bank =
            (struct gic_bank){.group = ~0u, .enabled = sgis, .edge = sgis};
        memset(machine->vcpus[i].gic_private.priority, 0, GIC_PRIVATE);
        gic_reset_interface(&machine->vcpus[i]);
    }
    for (uint32_t word = 0; word < gic->spi_words; word++)
        gic->spis[word] = (struct gic_bank){.group = ~0u};
}

int ta_machine_add_gic(struct ta_machine *machine, uint64_t distributor, uint64_t redistributors,
                       uint32_t spis)
{
    if (machine->gic || !spis || spis % 32 || spis > GIC_MAX_SPIS)
        return -EINVAL;
    int result = map_gic(machine, distributor, redistributors);
    if (result)
        return result;
    machine->gic = calloc(1, sizeof *machine->gic);
    if (!machine->gic)
        return -ENOMEM;
    machine->gic->distributor = distributor;
    machine->gic->redistributors = redistributors;
    machine->gic->spi_words = spis / 32;
    for (uint32_t i = 0; i < machine->vcpu_count; i++)
        machine->vcpus[i].sys.id_aa64pfr0 |= ID_AA64PFR0_GIC;
    reset_gic(machine);
    return 0;
}

void ta_gic_reset(struct ta_machine *machine)
{
    if (!machine->gic)
        return;
    reset_gic(machine);
    update_all_timers(machine); /* what their PPIs are, the timers say */
    machine->gic->inputs_changed = 1;
    gic_take_inputs(machine);
}

int ta_gic_reset_interface(struct ta_machine *machine, uint32_t index)
{
    if (!machine->gic || index >= machine->vcpu_count)
        return -1;
    gic_reset_interface(&machine->vcpus[index]);
    gic_update(&machine->vcpus[index]);
    return 0;
}

/* --- state --- */

static bool get_levels(struct ta_machine *machine, struct vcpu *owner, uint32_t word,
                       uint64_t *value)
{
    if (owner ? word : word >= machine->gic->spi_words)
        return false;
    const struct gic_bank *bank = owner ? &owner->gic_private.bank : &machine->gic->spis[word];
    *value = bank->level & ~bank->edge;
    return true;
}

/* A PPI's level follows from the timers' registers; no other device has one. */
static bool set_levels(struct ta_machine *machine, struct vcpu *owner, uint32_t word,
                       uint64_t value)
{
    uint32_t timers = 1u << GIC_TIMER_VIRTUAL | 1u << GIC_TIMER_PHYSICAL;
    if (owner)
        return !word && !(value & ~(uint64_t)timers);
    if (word >= machine->gic->spi_words || value >> 32)
        return false;
    __atomic_store_n(&machine->gic->rises[word], 0, __ATOMIC_RELAXED);
    __atomic_store_n(&machine->gic->inputs[word], (uint32_t)value, __ATOMIC_RELAXED);
    machine->gic->spis[word].level = (uint32_t)value;
    return true;
}

/* The vCPU whose part it is; NULL for the distributor's. False if there is no such part. */
static bool find_owner(struct ta_machine *machine, uint32_t part, uint32_t index,
                       struct vcpu **owner)
{
    bool is_shared = part == TA_GIC_DISTRIBUTOR || part == TA_GIC_SPI_LEVELS;
    if (!machine->gic || part > TA_GIC_PPI_LEVELS || index >= (is_shared ? 1 : machine->vcpu_count))
        return false;
    *owner = is_shared ? NULL : &machine->vcpus[index];
    return true;
}

int ta_gic_get(struct ta_machine *machine, uint32_t part, uint32_t index, uint32_t number,
               uint64_t *value)
{
    struct vcpu *owner;
    uint32_t word = 0;
    if (!find_owner(machine, part, index, &owner))
        return -1;
    take_events(machine);
    if (part == TA_GIC_SPI_LEVELS || part == TA_GIC_PPI_LEVELS)
        return get_levels(machine, owner, number, value) ? 0 : -1;
    if (part == TA_GIC_INTERFACE)
        return gic_get_interface_state(owner, number, value) ? 0 : -1;
    if (!gic_get_frame_state(machine, owner, number, &word))
        return -1;
    *value = word;
    return 0;
}

int ta_gic_set(struct ta_machine *machine, uint32_t part, uint32_t index, uint32_t number,
               uint64_t value)
{
    struct vcpu *owner;
    bool taken;
    if (!find_owner(machine, part, index, &owner))
        return -1;
    take_events(machine);
    if (part == TA_GIC_SPI_LEVELS || part == TA_GIC_PPI_LEVELS)
        taken = set_levels(machine, owner, number, value);
    else if (part == TA_GIC_INTERFACE)
        taken = gic_set_interface_state(owner, number, value);
    else
        taken = !(value >> 32) && gic_set_frame_state(machine, owner, number, (uint32_t)value);
    gic_update_all(machine);
    return taken ? 0 : -1;
}
