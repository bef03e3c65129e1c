/* The interpreter's part of the interface that tagalong.h declares: machines, vCPUs, their exits and
 * their state. */
#ifndef TAGALONG_CPU_MACHINE_H
#define TAGALONG_CPU_MACHINE_H

#include "tagalong.h"

struct ta_machine;

enum ta_exit_reason {
    TA_EXIT_BUDGET = 1,      /* the instruction budget is used up */
    TA_EXIT_INTERRUPTED = 2, /* ta_machine_interrupt was called */
    TA_EXIT_MMIO = 3,        /* complete with ta_machine_complete_mmio, then run again */
    TA_EXIT_HVC = 4,         /* HVC executed: x0..x3 hold the call, pc is after it */
    TA_EXIT_IDLE = 5,        /* every vCPU that is on waits in WFI or WFE, or none is on, and
                              * no timer will end that; if the host's clock is followed, it may */
    TA_EXIT_UNSUPPORTED = 6, /* allocated but not implemented: insn at pc */
    TA_EXIT_ALARM = 7,       /* the counter has reached what ta_machine_set_alarm said */
};

struct ta_exit {
    uint32_t reason;
    uint32_t vcpu;
    uint64_t pc;
    uint32_t insn;
    uint32_t mmio_size;
    uint64_t mmio_gpa;
    uint64_t mmio_data;
    uint32_t mmio_is_write;
    uint32_t mmio_window; /* what ta_machine_add_mmio returned */
    uint64_t idle_ticks;  /* IDLE: counter ticks until something will happen by itself; ~0: never */
};

/* NULL if memory is short or vcpus is 0. `seed` decides how the vCPUs interleave and what
 * IRG draws where the architecture leaves it open. */
TA_EXPORT struct ta_machine *ta_machine_new(uint32_t vcpus, uint64_t seed);
TA_EXPORT void ta_machine_free(struct ta_machine *machine);

/* Map a page-aligned range; only while no vCPU runs. `data` has `size` bytes, `tags` size/32;
 * both outlive the machine. Return the number of the region or window, counted from 0 in the
 * order of their adding, -EINVAL for a range that is empty, misaligned or overlaps
 * another, or -ENOMEM. */
TA_EXPORT int ta_machine_add_ram(struct ta_machine *machine, uint64_t gpa, uint64_t size,
                                 uint8_t *data, uint8_t *tags);
TA_EXPORT int ta_machine_add_mmio(struct ta_machine *machine, uint64_t gpa, uint64_t size);

/* Whether another machine, in another thread, uses the same planes: two tags share a byte, and
 * a tag store must then not undo what the other did to its neighbour. */
TA_EXPORT void ta_machine_share_tags(struct ta_machine *machine, uint32_t shared);

/* Sets the bitmap (KVM's layout: bit n of a little-endian u64 array is page n) in which the
 * region's pages are marked before they change; NULL ends it. Call it again after bits
 * were cleared. Only while no vCPU runs. */
TA_EXPORT int ta_machine_set_dirty_log(struct ta_machine *machine, uint32_t region,
                                       uint64_t *bitmap);

/* Whether the plain interpreter alone runs the vCPUs: it is slow, does the same, and is what the
 * tests hold the quick one against. Only while no vCPU runs. */
TA_EXPORT void ta_machine_run_plainly(struct ta_machine *machine, uint32_t plainly);

/* Runs the vCPUs in turn for at most `budget` instructions in all; one thread at a time. */
TA_EXPORT void ta_machine_run(struct ta_machine *machine, uint64_t budget, struct ta_exit *exit);

/* Makes the running, or else the next, ta_machine_run return soon. From any thread. */
TA_EXPORT void ta_machine_interrupt(struct ta_machine *machine);

/* Answers the MMIO exit of `vcpu`: with the value read (ignored for a write), or with an
 * external abort that the guest takes. Returns 0 if the instruction has been carried out, 1 if it
 * makes another access: that is described in `exit` and must be answered in the same way before
 * anything else happens. */
TA_EXPORT int ta_machine_complete_mmio(struct ta_machine *machine, uint32_t vcpu, uint64_t data,
                                       struct ta_exit *exit);
TA_EXPORT void ta_vcpu_abort_mmio(struct ta_machine *machine, uint32_t vcpu);

/* Runs one vCPU alone, whatever it waits for, for at most `count` instructions. */
TA_EXPORT void ta_vcpu_step(struct ta_machine *machine, uint32_t vcpu, uint64_t count,
                            struct ta_exit *exit);
TA_EXPORT void ta_vcpu_set_power(struct ta_machine *machine, uint32_t vcpu, uint32_t on);

enum ta_interrupt { TA_INTERRUPT_IRQ = 0, TA_INTERRUPT_FIQ = 1 };

/* Sets the level of one of the vCPU's interrupt inputs. From any thread, at any time: a vCPU that
 * runs sees it within a few thousand instructions. 0, or -1 if there is no such input: a machine
 * with a GIC has none, but for the GIC's. */
TA_EXPORT int ta_vcpu_set_interrupt(struct ta_machine *machine, uint32_t vcpu, uint32_t line,
                                    uint32_t level);

/* Makes the vCPU wait for an interrupt, as if it had executed WFI just now. */
TA_EXPORT void ta_vcpu_wait(struct ta_machine *machine, uint32_t vcpu);

/* Makes the counter follow the host's monotonic clock, or the instructions again, from where it is.
 * Only while no vCPU runs. */
TA_EXPORT void ta_machine_follow_host_clock(struct ta_machine *machine, uint32_t follows);

/* The counter (CNTVCT_EL0), which all vCPUs share: an instruction of any of them is a tick. The
 * time for which all of them wait for a timer passes at once; other idle time does not count by
 * itself: a caller that slept adds it. Only while no vCPU runs. */
TA_EXPORT uint64_t ta_machine_counter(const struct ta_machine *machine);
TA_EXPORT void ta_machine_advance(struct ta_machine *machine, uint64_t ticks);

/* Makes ta_machine_run return TA_EXIT_ALARM, once, when the counter has reached `at`: before the
 * instruction that would run then, or when all vCPUs have waited for so long; ~0: never. Replaces
 * the last one. Only while no vCPU runs. */
TA_EXPORT void ta_machine_set_alarm(struct ta_machine *machine, uint64_t at);

/* A GICv3 with `spis` SPIs (a multiple of 32, 32 to 960) at these gpas, multiples of a page: the
 * distributor's 64 KiB and 128 KiB per vCPU, 16 vCPUs at most. Once, before any vCPU runs. 0, -EINVAL
 * for what cannot be, or -ENOMEM. */
TA_EXPORT int ta_machine_add_gic(struct ta_machine *machine, uint64_t distributor,
                                 uint64_t redistributors, uint32_t spis);

/* Sets the level of an SPI's line. From any thread, at any time, as ta_vcpu_set_interrupt. 0, or -1
 * if there is no such SPI. */
TA_EXPORT int ta_gic_set_line(struct ta_machine *machine, uint32_t intid, uint32_t level);

enum ta_gic_part {
    TA_GIC_DISTRIBUTOR = 0,   /* `number` is a register's offset from its start */
    TA_GIC_REDISTRIBUTOR = 1, /* the same, of vCPU `index` */
    TA_GIC_INTERFACE = 2,     /* `number` is a register's MRS encoding, of vCPU `index` */
    TA_GIC_SPI_LEVELS = 3,    /* `number` counts words of 32 SPIs */
    TA_GIC_PPI_LEVELS = 4,    /* of vCPU `index`; `number` is 0 */
};

/* The GIC's state by registers, which mean what machine/gic.py says. Only while no vCPU runs; lines
 * may change meanwhile. 0, or -1 for a register that does not exist or a value that it cannot have;
 * it keeps its value then. */
TA_EXPORT int ta_gic_get(struct ta_machine *machine, uint32_t part, uint32_t index,
                         uint32_t number, uint64_t *value);
TA_EXPORT int ta_gic_set(struct ta_machine *machine, uint32_t part, uint32_t index,
                         uint32_t number, uint64_t value);
/* Resets the GIC, if there is one, but for the lines of devices. */
TA_EXPORT void ta_gic_reset(struct ta_machine *machine);
/* Resets the CPU interface of a vCPU. 0, or -1 if there is none. */
TA_EXPORT int ta_gic_reset_interface(struct ta_machine *machine, uint32_t vcpu);

/* Registers by KVM ONE_REG id, as little-endian bytes: as many as the id says (bits 55:52, log2),
 * and `bytes` is that number. 0, or -1 for an id, a size or a value that the vCPU does not accept;
 * it keeps its value then. */
TA_EXPORT int ta_vcpu_get(struct ta_machine *machine, uint32_t vcpu, uint64_t id, void *value,
                          size_t bytes);
TA_EXPORT int ta_vcpu_set(struct ta_machine *machine, uint32_t vcpu, uint64_t id,
                          const void *value, size_t bytes);

/* The same for `count` registers in order. `values` has 16 bytes for each, which begin with the
 * register's; a shorter one leaves the others as they are. done[i]: 1 for 0, 0 for -1. */
TA_EXPORT void ta_vcpu_get_each(struct ta_machine *machine, uint32_t vcpu, const uint64_t *ids,
                                size_t count, void *values, uint8_t *done);
TA_EXPORT void ta_vcpu_set_each(struct ta_machine *machine, uint32_t vcpu, const uint64_t *ids,
                                size_t count, const void *values, uint8_t *done);

/* Writes at most `max_ids` of the ids that every vCPU has, in ascending order, and
 * returns how many there are. */
TA_EXPORT size_t ta_vcpu_register_ids(uint64_t *ids, size_t max_ids);
TA_EXPORT uint64_t ta_vcpu_instructions(struct ta_machine *machine, uint32_t vcpu);

/* A vCPU's state as ta_vcpu_snapshot_bytes() bytes; only for this machine, and only while no
 * vCPU runs. Equal bytes mean equal behaviour. 0, or -1 if there is no such vCPU. */
TA_EXPORT size_t ta_vcpu_snapshot_bytes(void);
TA_EXPORT int ta_vcpu_save_snapshot(struct ta_machine *machine, uint32_t vcpu,
                                    uint8_t *snapshot);
TA_EXPORT int ta_vcpu_load_snapshot(struct ta_machine *machine, uint32_t vcpu,
                                    const uint8_t *snapshot);

#endif
