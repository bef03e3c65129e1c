/* The interrupt controller: a GICv3 with one security state and no LPIs (Arm IHI 0069).
 *
 *   gic.c              which interrupt is signalled to which vCPU, the devices' lines, the state
 *   gic_frames.c       the distributor and the redistributors, as memory shows them
 *   gic_interface.c    the CPU interface, ICC_*_EL1
 *
 * What a guest reads is what KVM's vGIC shows it (Linux arch/arm64/kvm/vgic), because guests move
 * between the two: GICD_CTLR.DS and ARE are fixed, EnableGrp1 enables both groups, private
 * interrupts are in the redistributors only, and what is not there reads as zero.
 *
 * All of this is accessed by the thread that runs the vCPUs, or while none runs; only the input
 * lines of devices may change at any time, and are looked at between two slices. */
#ifndef TA_GIC_H
#define TA_GIC_H

#include <stdbool.h>
#include <stdint.h>

struct ta_machine;
struct vcpu;

enum {
    GIC_PRIVATE = 32,      /* INTIDs below are SGIs and PPIs, each vCPU's own */
    GIC_SGIS = 16,
    GIC_MAX_SPIS = 960,
    GIC_MAX_WORDS = GIC_MAX_SPIS / 32,
    GIC_SPURIOUS = 1023,
    GIC_FIRST_SPECIAL = 1020,
    GIC_IDLE_PRIORITY = 0xff,
    GIC_FRAME_BYTES = 0x10000,
    GIC_REDISTRIBUTOR_BYTES = 0x20000, /* two frames */
    GIC_TIMER_VIRTUAL = 27, /* PPIs */
    GIC_TIMER_PHYSICAL = 30,
};

/* The number of the GIC's windows; add_mmio() never gets that far. */
#define GIC_WINDOW UINT32_MAX

/* 32 interrupts, one in each bit. */
struct gic_bank {
    uint32_t group, enabled, active;
    uint32_t latch; /* pending: an edge that came, or ISPENDR; a level is not in it */
    uint32_t level; /* of the input lines */
    uint32_t edge;  /* ICFGR: edge-triggered */
};

/* What a redistributor has. */
struct gic_private {
    struct gic_bank bank;
    uint8_t priority[GIC_PRIVATE];
};

/* The two groups, in this order. */
enum gic_group { GROUP_0, GROUP_1, GROUPS };

struct gic_interface {
    uint32_t identity; /* the fields of ICC_CTLR_EL1 that are read-only */
    uint32_t active_priorities[GROUPS][4]; /* ICC_AP0R, ICC_AP1R */
    uint8_t pmr, binary_point[GROUPS];
    bool enabled[GROUPS];
    bool common_binary_point, split_eoi; /* ICC_CTLR_EL1.CBPR, EOImode */
};

struct gic {
    uint64_t distributor, redistributors; /* their first gpas */
    uint32_t spi_words;
    uint32_t revision; /* GICD_IIDR */
    bool enabled;      /* GICD_CTLR.EnableGrp1 */
    struct gic_bank spis[GIC_MAX_WORDS];
    uint8_t priority[GIC_MAX_SPIS];
    uint32_t route[GIC_MAX_SPIS]; /* GICD_IROUTER: Aff2 to Aff0 */
    /* The devices' side. All access is atomic. */
    uint32_t inputs[GIC_MAX_WORDS];
    uint32_t rises[GIC_MAX_WORDS]; /* inputs that rose since they were last looked at */
    int inputs_changed;
};

/* The pending, enabled interrupt of the highest priority; intid is GIC_SPURIOUS without one.
 * Neither PMR nor the running priority is looked at. */
struct gic_candidate {
    uint32_t intid;
    uint8_t priority;
    uint8_t group;
};

/* --- gic.c --- */

struct gic_candidate gic_highest(const struct vcpu *cpu);
bool gic_is_signalled(const struct vcpu *cpu, struct gic_candidate candidate);
uint8_t gic_group_priority(const struct vcpu *cpu, uint8_t priority, unsigned group);
uint8_t gic_running_priority(const struct vcpu *cpu);
/* The bank of an interrupt as `cpu` sees it, NULL if there is no such interrupt. */
struct gic_bank *gic_bank_of(struct vcpu *cpu, uint32_t intid);
uint8_t *gic_priority_of(struct vcpu *cpu, uint32_t intid);
/* After any change: sets the vCPU's interrupt inputs, or those of all vCPUs. */
void gic_update(struct vcpu *cpu);
void gic_update_all(struct ta_machine *machine);
/* Takes over what devices did to their lines. */
void gic_take_inputs(struct ta_machine *machine);
void gic_set_private_level(struct vcpu *cpu, uint32_t intid, bool level);
void gic_reset_interface(struct vcpu *cpu);

/* --- gic_frames.c --- */

uint64_t gic_read(struct vcpu *cpu, uint64_t gpa, uint32_t size);
void gic_write(struct vcpu *cpu, uint64_t gpa, uint32_t size, uint64_t value);
/* A frame's 32-bit register as part of the state; `owner` is NULL for the distributor. */
bool gic_get_frame_state(struct ta_machine *machine, struct vcpu *owner, uint32_t offset,
                         uint32_t *value);
bool gic_set_frame_state(struct ta_machine *machine, struct vcpu *owner, uint32_t offset,
                         uint32_t value);

/* --- gic_interface.c --- */

unsigned gic_priority_bits(const struct gic_interface *interface);
bool gic_get_interface_state(struct vcpu *cpu, uint32_t encoding, uint64_t *value);
bool gic_set_interface_state(struct vcpu *cpu, uint32_t encoding, uint64_t value);

#endif
