#include "vcpu.h"

#include "boot.h"
#include "psci.h"
#include "sysreg.h"

struct vcpu vcpus[MAX_VCPUS];
const u64 vcpu_bytes = sizeof(struct vcpu);

static vcpu_program *programs[MAX_VCPUS];

extern void secondary_start(void);
extern void el0_done(void);
extern u64 el0_call(u64 entry, u64 x0, u64 x1, u64 stack);

void trap_arm(u64 resume) {
    struct trap *trap = &this_vcpu()->trap;
    trap->taken = false;
    trap->resume = resume;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    trap->armed = true;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

const struct frame *trap_taken(void) {
    struct trap *trap = &this_vcpu()->trap;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    trap->armed = false;
    return trap->taken ? &trap->frame : NULL;
}

void el0_run(u64 entry, u64 x0, u64 x1, u64 stack) {
    trap_arm((u64)el0_done);
    el0_call(entry, x0, x1, stack);
}

static bool is_synchronous(u64 vector) {
    return vector % 4 == 0;
}

static void record(struct trap *trap, struct frame *frame) {
    trap->frame = *frame;
    trap->armed = false;
    trap->taken = true;
    frame->elr = trap->resume ? trap->resume : frame->elr + 4;
    if (frame->vector == VECTOR_EL0_SYNC)
        frame->spsr = PSTATE_EL1H_MASKED;
}

static bool is_vcpu(const struct vcpu *vcpu) {
    return vcpu >= vcpus && vcpu < vcpus + MAX_VCPUS;
}

/* Called from vectors.S. */
void exception(struct frame *frame) {
    struct vcpu *vcpu = this_vcpu();
    if (!is_vcpu(vcpu)) { /* TPIDR_EL1 is lost: say so as vCPU 0 rather than fault for ever */
        SYSREG_WRITE(tpidr_el1, (u64)vcpus);
        unexpected_exception(frame);
        guest_end(GUEST_FAILED);
    }
    if (vcpu->trap.armed && is_synchronous(frame->vector)) {
        record(&vcpu->trap, frame);
        return;
    }
    if (vcpu->handling) /* even reporting faults: there is nothing left to try */
        guest_end(GUEST_FAILED);
    vcpu->handling = true;
    unexpected_exception(frame);
    vcpu->handling = false;
}

int vcpu_start(u64 index, vcpu_program *program) {
    programs[index] = program;
    vcpus[index].index = index;
    barrier_all();
    return psci_call(PSCI_CPU_ON, index, (u64)secondary_start, index);
}

u64 vcpus_start(u64 count, vcpu_program *program) {
    u64 started = 1;
    while (started < count && vcpu_start(started, program) == PSCI_SUCCESS)
        started++;
    return started;
}

/* Called from start.S. */
void secondary_main(u64 index) {
    programs[index](index);
    psci_call(PSCI_CPU_OFF, 0, 0, 0);
}
