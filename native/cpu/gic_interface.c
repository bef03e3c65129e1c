/* The CPU interface, ICC_*_EL1 (IHI 0069, 12.2; for EL1 of a guest, 12.3 and KVM's vgic-v3-sr.c).
 *
 * It has the system register interface alone (ICC_SRE_EL1 reads as ones), and both groups: IRQ is
 * group 1's, FIQ group 0's. Registers of priorities that the interface does not implement are
 * UNDEFINED, as on hardware. */
#include "cpu.h"
#include "gic_interface.h"

#define CTLR_CBPR 1u
#define CTLR_EOIMODE 2u
#define CTLR_PRIBITS_SHIFT 8
#define CTLR_PRIBITS (7u << CTLR_PRIBITS_SHIFT) /* minus one */
#define CTLR_ID_BITS (7u << 11)
#define CTLR_SEIS (1u << 14)
#define CTLR_A3V (1u << 15)
/* What this CPU's says: 5 bits of priority and 16 of INTIDs, the least that there is, and Aff3, as
 * CPUs do: so any of them can take its guest. A state may bring what another CPU said. */
#define CTLR_HERE (4u << CTLR_PRIBITS_SHIFT | CTLR_A3V)
#define SRE_ALL 7u /* SRE, DFB, DIB */
#define SGI_IRM (1ull << 40)

enum { PRIORITY_BITS_MIN = 5, PRIORITY_BITS_MAX = 7 };

unsigned gic_priority_bits(const struct gic_interface *interface)
{
    return ((interface->identity & CTLR_PRIBITS) >> CTLR_PRIBITS_SHIFT) + 1;
}

/* The least that a binary point can be: all bits of a priority take part in preemption then. */
static unsigned least_binary_point(const struct gic_interface *interface, unsigned group)
{
    return (group == GROUP_1 ? 8 : 7) - gic_priority_bits(interface);
}

void gic_reset_interface(struct vcpu *cpu)
{
    cpu->gic_interface = (struct gic_interface){.identity = CTLR_HERE};
    for (unsigned group = 0; group < GROUPS; group++)
        cpu->gic_interface.binary_point[group] =
            (uint8_t)least_binary_point(&cpu->gic_interface, group);
}

/* --- acknowledge, priority drop, deactivation --- */

static void set_active_priority(struct vcpu *cpu, struct gic_candidate candidate)
{
    struct gic_interface *interface = &cpu->gic_interface;
    unsigned level = gic_group_priority(cpu, candidate.priority, candidate.group) >>
                     (8 - gic_priority_bits(interface));
    interface->active_priorities[candidate.group][level / 32] |= 1u << level % 32;
}

static uint64_t acknowledge(struct vcpu *cpu, unsigned group)
{
    struct gic_candidate candidate = gic_highest(cpu);
    if (candidate.group != group || !gic_is_signalled(cpu, candidate))
        return GIC_SPURIOUS;
    struct gic_bank *bank = gic_bank_of(cpu, candidate.intid);
    uint32_t bit = 1u << candidate.intid % 32;
    bank->active |= bit;
    bank->latch &= ~bit;
    set_active_priority(cpu, candidate);
    gic_update(cpu);
    return candidate.intid;
}

static uint64_t highest_pending(const struct vcpu *cpu, unsigned group)
{
    struct gic_candidate candidate = gic_highest(cpu);
    return candidate.group == group ? candidate.intid : GIC_SPURIOUS;
}

static void clear_active(struct vcpu *cpu, uint32_t intid)
{
    struct gic_bank *bank = gic_bank_of(cpu, intid);
    if (bank)
        bank->active &= ~(1u << intid % 32);
}

/* Clears the highest active priority if it is of this group. */
static void drop_priority(struct gic_interface *interface, unsigned group)
{
    for (unsigned word = 0; word < 4; word++) {
        uint32_t active = interface->active_priorities[GROUP_0][word] |
                          interface->active_priorities[GROUP_1][word];
        if (active) {
            interface->active_priorities[group][word] &= ~(active & -active);
            return;
        }
    }
}

static void end_of_interrupt(struct vcpu *cpu, unsigned group, uint64_t value)
{
    uint32_t intid = (uint32_t)value & 0xffffff;
    if (intid >= GIC_FIRST_SPECIAL && intid <= GIC_SPURIOUS)
        return;
    drop_priority(&cpu->gic_interface, group);
    const struct gic_bank *bank = gic_bank_of(cpu, intid);
    bool is_of_group = bank && (bank->group >> intid % 32 & 1) == group;
    if (!cpu->gic_interface.split_eoi && is_of_group)
        clear_active(cpu, intid);
    gic_update_all(cpu->machine);
}

static void deactivate(struct vcpu *cpu, uint64_t value)
{
    if (!cpu->gic_interface.split_eoi)
        return;
    clear_active(cpu, (uint32_t)value & 0xffffff);
    gic_update_all(cpu->machine);
}

/* --- SGIs --- */

/* ICC_SGI1R_EL1 makes SGIs of either group pending, the other two those of group 0 alone. */
static void send_to(struct vcpu *target, uint32_t intid, bool any_group)
{
    struct gic_bank *bank = &target->gic_private.bank;
    if (any_group || !(bank->group >> intid & 1))
        bank->latch |= 1u << intid;
    gic_update(target);
}

static void send_sgi(struct vcpu *cpu, uint64_t value, bool any_group)
{
    struct ta_machine *machine = cpu->machine;
    uint32_t intid = value >> 24 & 0xf, targets = value & 0xffff;
    /* Aff2 and Aff1 say which 16 vCPUs the list is of. No vCPU has an Aff3, or an Aff0 from 16 on,
     * which the range selector would reach. */
    uint32_t cluster = (value >> 32 & 0xff) << 16 | (value >> 16 & 0xff) << 8;
    bool elsewhere = (value & 0x00fff00000000000ull) != 0;
    for (uint32_t i = 0; i < machine->vcpu_count; i++) {
        uint32_t affinity = vcpu_affinity(i);
        bool listed = !elsewhere && (affinity & ~0xffu) == cluster &&
                      (targets >> (affinity & 0xff) & 1);
        if (value & SGI_IRM ? i != cpu->index : listed)
            send_to(&machine->vcpus[i], intid, any_group);
    }
}

/* --- the registers that hold something --- */

static uint64_t read_ctlr(const struct gic_interface *interface)
{
    return interface->identity | (interface->common_binary_point ? CTLR_CBPR : 0) |
           (interface->split_eoi ? CTLR_EOIMODE : 0);
}

static void write_ctlr(struct gic_interface *interface, uint64_t value)
{
    interface->common_binary_point = (value & CTLR_CBPR) != 0;
    interface->split_eoi = (value & CTLR_EOIMODE) != 0;
}

/* With CBPR group 1's follows from group 0's, and cannot be written. */
static uint64_t read_binary_point(const struct gic_interface *interface, unsigned group)
{
    unsigned value = interface->binary_point[group];
    if (group == GROUP_1 && interface->common_binary_point)
        value = interface->binary_point[GROUP_0] + 1u;
    return value < 7 ? value : 7;
}

static void write_binary_point(struct gic_interface *interface, unsigned group, uint64_t value)
{
    unsigned least = least_binary_point(interface, group), wanted = value & 7;
    if (group == GROUP_0 || !interface->common_binary_point)
        interface->binary_point[group] = (uint8_t)(wanted < least ? least : wanted);
}

static uint8_t implemented_priority(const struct gic_interface *interface, uint64_t value)
{
    return (uint8_t)(value & 0xffu << (8 - gic_priority_bits(interface)));
}

/* The register for active priorities, or NULL if the interface does not have it. */
static uint32_t *active_priorities(struct gic_interface *interface, uint32_t encoding)
{
    unsigned group = encoding >= ICC_AP1R0 ? GROUP_1 : GROUP_0;
    unsigned number = encoding & 3, count = 1u << (gic_priority_bits(interface) - 5);
    return number < count ? &interface->active_priorities[group][number] : NULL;
}

static bool has_register(const struct vcpu *cpu, uint32_t encoding)
{
    struct gic_interface interface = cpu->gic_interface;
    bool is_active = encoding >= ICC_AP0R0 && encoding <= ICC_AP1R3;
    return cpu->machine->gic && (!is_active || active_priorities(&interface, encoding));
}

static uint64_t read_register(const struct vcpu *cpu, uint32_t encoding)
{
    struct gic_interface interface = cpu->gic_interface;
    switch (encoding) {
    case ICC_PMR:
        return interface.pmr;
    case ICC_BPR0: case ICC_BPR1:
        return read_binary_point(&interface, encoding == ICC_BPR1);
    case ICC_CTLR:
        return read_ctlr(&interface);
    case ICC_SRE:
        return SRE_ALL;
    case ICC_IGRPEN0: case ICC_IGRPEN1:
        return interface.enabled[encoding == ICC_IGRPEN1];
    case ICC_RPR:
        return gic_running_priority(cpu);
    default:
        return *active_priorities(&interface, encoding);
    }
}

static void write_register(struct vcpu *cpu, uint32_t encoding, uint64_t value)
{
    struct gic_interface *interface = &cpu->gic_interface;
    switch (encoding) {
    case ICC_PMR:
        interface->pmr = implemented_priority(interface, value);
        break;
    case ICC_BPR0: case ICC_BPR1:
        write_binary_point(interface, encoding == ICC_BPR1, value);
        break;
    case ICC_CTLR:
        write_ctlr(interface, value);
        break;
    case ICC_SRE:
        break;
    case ICC_IGRPEN0: case ICC_IGRPEN1:
        interface->enabled[encoding == ICC_IGRPEN1] = value & 1;
        break;
    default:
        *active_priorities(interface, encoding) = (uint32_t)value;
    }
    gic_update(cpu);
}

/* --- as system registers --- */

uint64_t read_icc(const struct vcpu *cpu, const struct sysreg *reg)
{
    return read_register(cpu, reg->encoding);
}

void write_icc(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    write_register(cpu, reg->encoding, value);
}

/* The only registers whose reading changes the vCPU: it acknowledges an interrupt. */
uint64_t read_icc_iar(const struct vcpu *cpu, const struct sysreg *reg)
{
    return acknowledge((struct vcpu *)cpu, reg->encoding == ICC_IAR1 ? GROUP_1 : GROUP_0);
}

uint64_t read_icc_hppir(const struct vcpu *cpu, const struct sysreg *reg)
{
    return highest_pending(cpu, reg->encoding == ICC_HPPIR1 ? GROUP_1 : GROUP_0);
}

void write_icc_eoir(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    end_of_interrupt(cpu, reg->encoding == ICC_EOIR1 ? GROUP_1 : GROUP_0, value);
}

void write_icc_dir(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    (void)reg;
    deactivate(cpu, value);
}

void write_icc_sgi(struct vcpu *cpu, const struct sysreg *reg, uint64_t value)
{
    send_sgi(cpu, value, reg->encoding == ICC_SGI1R);
}

static enum sysreg_access if_gic_has(const struct vcpu *cpu, uint32_t encoding)
{
    return has_register(cpu, encoding) ? ACCESS_ALLOWED : ACCESS_UNDEFINED;
}

enum sysreg_access check_gic(const struct vcpu *cpu)
{
    return if_gic_has(cpu, ICC_PMR);
}

/* How many registers of active priorities there are depends on the bits of a priority. */
enum sysreg_access check_priorities_1(const struct vcpu *cpu)
{
    return if_gic_has(cpu, ICC_AP1R0 + 1);
}

enum sysreg_access check_priorities_2_3(const struct vcpu *cpu)
{
    return if_gic_has(cpu, ICC_AP1R3);
}

/* --- state --- */

static bool is_state(uint32_t encoding)
{
    switch (encoding) {
    case ICC_PMR: case ICC_BPR0: case ICC_BPR1: case ICC_CTLR: case ICC_SRE:
    case ICC_IGRPEN0: case ICC_IGRPEN1:
        return true;
    default:
        return encoding >= ICC_AP0R0 && encoding <= ICC_AP1R3;
    }
}

/* Another CPU's identity is taken over: the guest goes on seeing what it saw. */
static bool set_ctlr_state(struct gic_interface *interface, uint64_t value)
{
    struct gic_interface wanted = {.identity = (uint32_t)value & ~(CTLR_CBPR | CTLR_EOIMODE)};
    uint32_t known = CTLR_PRIBITS | CTLR_ID_BITS | CTLR_SEIS | CTLR_A3V;
    unsigned bits = gic_priority_bits(&wanted);
    if (value >> 32 || (wanted.identity & ~known) || bits < PRIORITY_BITS_MIN ||
        bits > PRIORITY_BITS_MAX)
        return false;
    interface->identity = wanted.identity;
    memset(interface->active_priorities, 0, sizeof interface->active_priorities); /* they follow */
    write_ctlr(interface, value);
    return true;
}

bool gic_get_interface_state(struct vcpu *cpu, uint32_t encoding, uint64_t *value)
{
    if (!is_state(encoding) || !has_register(cpu, encoding))
        return false;
    *value = read_register(cpu, encoding);
    return true;
}

/* KVM saves zeros as the binary points of an interface that was never used: the least is meant. */
static bool is_acceptable(const struct vcpu *cpu, uint32_t encoding, uint64_t value)
{
    switch (encoding) {
    case ICC_PMR:
        return value <= 0xff;
    case ICC_BPR0: case ICC_BPR1:
        return value <= 7;
    case ICC_IGRPEN0: case ICC_IGRPEN1:
        return value <= 1;
    case ICC_SRE:
        return value == read_register(cpu, encoding);
    default:
        return !(value >> 32);
    }
}

bool gic_set_interface_state(struct vcpu *cpu, uint32_t encoding, uint64_t value)
{
    if (!is_state(encoding) || !has_register(cpu, encoding))
        return false;
    if (encoding == ICC_CTLR)
        return set_ctlr_state(&cpu->gic_interface, value);
    if (!is_acceptable(cpu, encoding, value))
        return false;
    write_register(cpu, encoding, value);
    return true;
}
