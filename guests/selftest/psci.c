/* PSCI over HVC, and what a second vCPU sees of tags. */
#include "psci.h"

#include "selftest.h"

#define NO_SUCH_CPU 0xff00ff
#define NO_SUCH_FUNCTION 0x8400ffffUL
#define PATIENCE 50000000UL /* turns of a waiting loop */
#define ADDITIONS 2000
#define TAG 5
#define OTHER_TAG 6

/* What the second vCPU tells the first. */
static struct {
    u64 runs;
    u64 affinity;
    u64 exception_level;
    u64 tag_seen;
    u64 fault_esr;
    u64 fault_far;
    u64 counter;
    u64 atomic_counter;
} report;

static bool wait_for(const u64 *variable, u64 value) {
    for (u64 turn = 0; turn < PATIENCE; turn++) {
        if (__atomic_load_n(variable, __ATOMIC_ACQUIRE) == value)
            return true;
        cpu_relax();
    }
    return false;
}

static bool wait_for_affinity(u64 index, int state) {
    for (u64 turn = 0; turn < PATIENCE; turn++)
        if (psci_call(PSCI_AFFINITY_INFO, index, 0, 0) == state)
            return true;
    return false;
}

static void version(const void *argument) {
    (void)argument;
    expect_true("PSCI_VERSION is 0.2 or later", psci_call(PSCI_VERSION, 0, 0, 0) >= 2);
}

static void features(const void *argument) {
    (void)argument;
    expect_true("CPU_ON is there", psci_call(PSCI_FEATURES, PSCI_CPU_ON, 0, 0) >= 0);
    expect_true("SYSTEM_OFF is there", psci_call(PSCI_FEATURES, PSCI_SYSTEM_OFF, 0, 0) >= 0);
    expect_equal("a function that is not", (u64)PSCI_NOT_SUPPORTED,
                 (u64)psci_call(PSCI_FEATURES, NO_SUCH_FUNCTION, 0, 0));
}

static void affinity_info(const void *argument) {
    (void)argument;
    expect_equal("own state", PSCI_AFFINITY_ON, (u64)psci_call(PSCI_AFFINITY_INFO, 0, 0, 0));
    expect_equal("no such vCPU", (u64)PSCI_INVALID_PARAMETERS,
                 (u64)psci_call(PSCI_AFFINITY_INFO, NO_SUCH_CPU, 0, 0));
}

static void cpu_on_refused(const void *argument) {
    (void)argument;
    u64 entry = (u64)scratch; /* never reached, but an address that could be */
    expect_equal("own vCPU", (u64)PSCI_ALREADY_ON, (u64)psci_call(PSCI_CPU_ON, 0, entry, 0));
    expect_equal("no such vCPU", (u64)PSCI_INVALID_PARAMETERS,
                 (u64)psci_call(PSCI_CPU_ON, NO_SUCH_CPU, entry, 0));
}

static bool has_second_vcpu(void) {
    if (machine->vcpu_count < 2)
        skip_check("needs a second vCPU");
    return machine->vcpu_count >= 2;
}

static void say(u64 *variable, u64 value) {
    __atomic_store_n(variable, value, __ATOMIC_RELEASE);
}

/* Starts `program` on vCPU 1, waits for it to report its `run`th run and to be off again. */
static void run_second(vcpu_program *program, u64 run) {
    expect_equal("vCPU 1 before", PSCI_AFFINITY_OFF,
                 (u64)psci_call(PSCI_AFFINITY_INFO, 1, 0, 0));
    expect_equal("CPU_ON", PSCI_SUCCESS, (u64)vcpu_start(1, program));
    expect_true("vCPU 1 reports", wait_for(&report.runs, run));
    expect_true("vCPU 1 goes off", wait_for_affinity(1, PSCI_AFFINITY_OFF));
}

static void introduce(u64 index) {
    (void)index;
    report.affinity = SYSREG_READ(mpidr_el1) & 0xffffff;
    report.exception_level = SYSREG_READ(currentel) >> 2;
    say(&report.runs, report.runs + 1);
}

static void second_vcpu(const void *argument) {
    (void)argument;
    if (!has_second_vcpu())
        return;
    report.runs = 0;
    for (u64 run = 1; run <= 3; run++)
        run_second(introduce, run);
    expect_equal("MPIDR_EL1", 1, report.affinity);
    expect_equal("CurrentEL", 1, report.exception_level);
}

/* Reads the tag that vCPU 0 has set, takes a fault of its own and sets another tag. */
static void inspect(u64 index) {
    (void)index;
    u64 pointer = scratch_pointer(OTHER_TAG);
    report.tag_seen = granule_tag(pointer);
    trap_arm(0);
    probe_call(probe_load, &(struct registers){{pointer}});
    const struct frame *frame = trap_taken();
    report.fault_esr = frame ? frame->esr : 0;
    report.fault_far = frame ? frame->far & FAR_KNOWN_MASK : 0;
    mte_stg(pointer, pointer);
    barrier_all();
    say(&report.runs, 1);
}

static void shared_tags(const void *argument) {
    (void)argument;
    u64 pointer = scratch_pointer(OTHER_TAG);
    if (!has_second_vcpu())
        return;
    report.runs = 0;
    set_tags(pointer, GRANULE_BYTES, TAG);
    run_second(inspect, 1);
    expect_equal("tag seen by vCPU 1", TAG, report.tag_seen);
    expect_equal("ESR_EL1 of vCPU 1", ESR_TAG_CHECK_READ, report.fault_esr & ESR_LOW_MASK);
    expect_equal("FAR_EL1 of vCPU 1", pointer, report.fault_far);
    expect_tags("tag set by vCPU 1", pointer, GRANULE_BYTES, OTHER_TAG);
}

/* SCTLR_EL1.TCF is a vCPU's own. */
static void own_mode(const void *argument) {
    (void)argument;
    u64 pointer = scratch_pointer(OTHER_TAG);
    if (!has_second_vcpu())
        return;
    report.runs = 0;
    set_tags(pointer, GRANULE_BYTES, TAG);
    mte_set_mode(TCF_NONE);
    probe_runs(probe_load, pointer);
    run_second(inspect, 1);
    expect_equal("ESR_EL1 of vCPU 1", ESR_TAG_CHECK_READ, report.fault_esr & ESR_LOW_MASK);
}

static void add_exclusive(u64 *counter) {
    u64 value, failed;
    __asm__ volatile("1: ldaxr %0, [%2]\n\tadd %0, %0, #1\n\tstlxr %w1, %0, [%2]\n\tcbnz %w1, 1b"
                     : "=&r"(value), "=&r"(failed)
                     : "r"(counter)
                     : "memory");
}

static void count_up(void) {
    for (unsigned i = 0; i < ADDITIONS; i++) {
        add_exclusive(&report.counter);
        __atomic_fetch_add(&report.atomic_counter, 1, __ATOMIC_RELAXED);
    }
}

static void count_second(u64 index) {
    (void)index;
    count_up();
    say(&report.runs, 1);
}

static void contention(const void *argument) {
    (void)argument;
    if (!has_second_vcpu())
        return;
    report.runs = report.counter = report.atomic_counter = 0;
    expect_equal("CPU_ON", PSCI_SUCCESS, (u64)vcpu_start(1, count_second));
    count_up();
    expect_true("vCPU 1 reports", wait_for(&report.runs, 1));
    expect_true("vCPU 1 goes off", wait_for_affinity(1, PSCI_AFFINITY_OFF));
    expect_equal("exclusive counter", 2 * ADDITIONS, report.counter);
    expect_equal("atomic counter", 2 * ADDITIONS, report.atomic_counter);
}

static const struct check psci_checks[] = {
    {"version", version, NULL},
    {"features", features, NULL},
    {"affinity-info", affinity_info, NULL},
    {"cpu-on-refused", cpu_on_refused, NULL},
    {"second-vcpu", second_vcpu, NULL},
    {"second-vcpu-tags", shared_tags, NULL},
    {"second-vcpu-mode", own_mode, NULL},
    {"contention", contention, NULL},
};

TOPIC(psci);
