/* What each vCPU has of its own, and what happens to its exceptions. */
#ifndef VCPU_H
#define VCPU_H

#include "layout.h"
#include "types.h"

/* The interrupted context, built by vectors.S. */
struct frame {
    u64 x[31];
    u64 elr;
    u64 spsr;
    u64 esr;
    u64 far;
    u64 sp_el0;
    u64 tco; /* PSTATE.TCO as the handler found it */
    u64 vector;
};

_Static_assert(offsetof(struct frame, elr) == FRAME_ELR, "vectors.S");
_Static_assert(offsetof(struct frame, vector) == FRAME_VECTOR, "vectors.S");
_Static_assert(sizeof(struct frame) == FRAME_BYTES, "vectors.S");

/* Entries of the vector table, in its order. */
enum vector {
    VECTOR_EL1T_SYNC = 0,
    VECTOR_EL1H_SYNC = 4,
    VECTOR_EL0_SYNC = 8,
};

/* A place to come back to: see vectors.S. */
struct context {
    u64 registers[13];
};

u64 context_save(struct context *context) __attribute__((returns_twice));
_Noreturn void context_restore(const struct context *context, u64 value);

/* One exception that the program asks for. */
struct trap {
    bool armed;
    bool taken;
    u64 resume; /* where to go on; 0: behind the instruction that faulted */
    struct frame frame;
};

struct vcpu {
    struct trap trap;
    bool handling; /* inside unexpected_exception */
    u64 index;
};

extern struct vcpu vcpus[MAX_VCPUS];

static inline struct vcpu *this_vcpu(void) {
    struct vcpu *vcpu;
    __asm__("mrs %0, tpidr_el1" : "=r"(vcpu));
    return vcpu;
}

/* The next synchronous exception of this vCPU is recorded and skipped. */
void trap_arm(u64 resume);

/* Disarms and returns the exception taken since trap_arm, or NULL. */
const struct frame *trap_taken(void);

/* Runs EL0 code at `entry` until it takes an exception, which is then in trap_taken(). */
void el0_run(u64 entry, u64 x0, u64 x1, u64 stack);

/* Each program defines what an exception means while no trap is armed. It may change the frame to
 * continue elsewhere. */
void unexpected_exception(struct frame *frame);

/* Starts vCPUs 1 to count - 1 at `program`; returns how many, vCPU 0 among them, run. */
typedef void vcpu_program(u64 index);
u64 vcpus_start(u64 count, vcpu_program *program);

/* PSCI CPU_ON of one vCPU at `program`; returns PSCI's answer. A vCPU's number is its
 * MPIDR_EL1.Aff0, the other affinity levels are 0. */
int vcpu_start(u64 index, vcpu_program *program);

/* ESR_EL1 fields. */
#define ESR_LOW_MASK 0xffffffffUL
#define ESR_CLASS(esr) ((esr) >> 26 & 0x3f)
#define ESR_IL (1UL << 25)
#define ESR_WNR (1UL << 6)
#define ESR_FAULT_STATUS(esr) ((esr) & 0x3f)

enum exception_class {
    EC_UNDEFINED = 0x00,
    EC_SVC = 0x15,
    EC_SYSREG = 0x18,
    EC_FETCH_ABORT = 0x21,
    EC_PC_ALIGNMENT = 0x22,
    EC_DATA_ABORT_EL0 = 0x24,
    EC_DATA_ABORT = 0x25,
    EC_BRK = 0x3c,
};

/* Data and instruction abort status codes of a level; a tag check fault has none. */
#define FSC_TRANSLATION(level) (0x04 + (level))
#define FSC_ACCESS_FLAG(level) (0x08 + (level))
#define FSC_PERMISSION(level) (0x0c + (level))
#define FSC_TAG_CHECK 0x11
#define FSC_ALIGNMENT 0x21

static inline u64 esr_make(enum exception_class class, u64 syndrome) {
    return (u64)class << 26 | ESR_IL | syndrome;
}

#define ESR_TAG_CHECK_READ esr_make(EC_DATA_ABORT, FSC_TAG_CHECK)
#define ESR_TAG_CHECK_WRITE esr_make(EC_DATA_ABORT, FSC_TAG_CHECK | ESR_WNR)

/* FAR_EL1 without bits 63:60, which a tag check fault leaves unknown (Arm ARM, FAR_EL1)
 * unless the CPU has FEAT_MTE_TAGGED_FAR. */
#define FAR_KNOWN_MASK (~0UL >> 4)

#endif
