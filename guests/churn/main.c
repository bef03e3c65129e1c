/* churn's command line, its vCPUs and their endless loop. */
#include "boot.h"
#include "churn.h"
#include "console.h"
#include "random.h"
#include "vcpu.h"

#define HEAP_ALIGNMENT 65536UL
#define MIN_SHARE_BYTES 65536UL

/* Of every so many operations one only verifies a block (and with write-rate=0 all do). */
#define VERIFY_INTERVAL 4

/* After every so many operations come a wrong access and a look at the registers. */
#define PROVOKE_INTERVAL 16
#define SOAK_INTERVAL 256

/* How full the heap is kept: so many quarters. */
#define LIVE_QUARTERS 3

/* Free segments looked at before a block is allocated. */
#define ROOMY_TRIES 4

/* Turns of the idle loop, two instructions each, that take as long as a granule of work. */
#define IDLE_TURNS_PER_GRANULE 15

extern void idle_turns(u64 turns);

static struct knobs knobs = {
    .working_set_bytes = 16UL << 20,
    .write_rate = 100,
    .tag_only_percent = 20,
    .report_operations = 4096,
};

static struct share shares[MAX_VCPUS];
static u64 heap, share_bytes;

static void read_command_line(const struct boot *boot) {
    const struct knob list[] = {
        {"working-set", &knobs.working_set_bytes, 1, 1UL << 32, NULL},
        {"write-rate", &knobs.write_rate, 0, 100, NULL},
        {"tag-only", &knobs.tag_only_percent, 0, 100, NULL},
        {"report", &knobs.report_operations, 1, 1UL << 32, NULL},
        {"seed", &knobs.seed, 0, ~0UL, NULL},
    };
    knobs.seed = boot->seed;
    knobs_read("churn", boot->command_line, list, COUNT(list));
}

static void divide_memory(const struct boot *boot) {
    u64 end = boot->ram_gpa + boot->ram_bytes;
    heap = ((u64)image_end + HEAP_ALIGNMENT - 1) & ~(HEAP_ALIGNMENT - 1);
    u64 bytes = end > heap ? end - heap : 0;
    if (bytes > knobs.working_set_bytes)
        bytes = knobs.working_set_bytes;
    share_bytes = bytes / boot->vcpu_count & ~(GRANULE_BYTES - 1);
    if (share_bytes >= MIN_SHARE_BYTES)
        return;
    console_line("churn: error: %#lx bytes for each of %lu vCPUs: need %#lx (working-set, RAM)",
                 share_bytes, boot->vcpu_count, MIN_SHARE_BYTES);
    guest_end(GUEST_MISUSED);
}

static void create(struct share *share, u64 vcpu) {
    *share = (struct share){.vcpu = vcpu, .knobs = &knobs};
    share->random = random_mix(knobs.seed + vcpu);
    share->lfsr = (struct lfsr){.seed = (u16)(random_next(&share->random) | 1), .tag = 0};
    registers_mark(share);
    SYSREG_WRITE(rgsr_el1, lfsr_to_rgsr(&share->lfsr));
    segments_create(share, heap + vcpu * share_bytes, share_bytes);
}

static void populate(struct share *share) {
    for (u32 index = share->first; index != NO_SEGMENT;) {
        if (random_below(&share->random, 4) < LIVE_QUARTERS)
            block_allocate(share, index);
        index = segment_get(share, index).next;
    }
}

/* A segment in this state, or NO_SEGMENT if none was met in a few tries. */
static u32 any_in_state(struct share *share, enum segment_state state) {
    for (unsigned tries = 0; tries < 32; tries++) {
        u32 index = segment_any(share);
        if (segment_get(share, index).state == state)
            return index;
    }
    return NO_SEGMENT;
}

/* Does `operation` to a random segment that is in the right state for it. */
static void operate_on_any(struct share *share, enum segment_state state,
                           void (*operation)(struct share *, u32)) {
    u32 index = any_in_state(share, state);
    if (index != NO_SEGMENT)
        operation(share, index);
}

/* The longest of a few free segments: without a choice the blocks would get ever shorter. */
static u32 roomy_segment(struct share *share) {
    u32 best = NO_SEGMENT, granules = 0;
    for (unsigned tries = 0; tries < ROOMY_TRIES; tries++) {
        u32 index = any_in_state(share, SEGMENT_FREE);
        if (index == NO_SEGMENT || segment_get(share, index).granules <= granules)
            continue;
        best = index;
        granules = segment_get(share, index).granules;
    }
    return best;
}

static void allocate_any(struct share *share) {
    u32 index = roomy_segment(share);
    if (index != NO_SEGMENT)
        block_allocate(share, index);
}

static void verify(struct share *share, u32 index) {
    struct segment segment = segment_get(share, index);
    segment_verify(share, &segment);
}

/* One in four goes against the trend, so that the heap's fill wanders. */
static void allocate_or_free(struct share *share) {
    bool is_short = share->live_granules * 4 < share->heap_granules * LIVE_QUARTERS;
    bool is_trend = random_below(&share->random, 4) != 0;
    if (is_short == is_trend)
        allocate_any(share);
    else
        operate_on_any(share, SEGMENT_LIVE, block_free);
}

static void operate(struct share *share) {
    if (knobs.write_rate == 0 || random_below(&share->random, VERIFY_INTERVAL) == 0)
        operate_on_any(share, SEGMENT_LIVE, verify);
    else if (random_below(&share->random, 100) < knobs.tag_only_percent)
        operate_on_any(share, SEGMENT_LIVE, block_retag);
    else
        allocate_or_free(share);
    share->operations++;
    if (share->operations % PROVOKE_INTERVAL == 0)
        operate_on_any(share, SEGMENT_LIVE, provoke_near);
    if (share->operations % SOAK_INTERVAL == 0)
        registers_soak(share);
}

static void idle(struct share *share) {
    u64 turns = 0;
    if (knobs.write_rate)
        turns = share->work * IDLE_TURNS_PER_GRANULE * (100 - knobs.write_rate) /
                knobs.write_rate;
    share->work = 0;
    if (turns)
        idle_turns(turns);
}

_Noreturn static void run(u64 vcpu) {
    struct share *share = &shares[vcpu];
    create(share, vcpu);
    populate(share);
    for (;;) {
        operate(share);
        idle(share);
        if (share->operations % knobs.report_operations == 0) {
            segments_audit(share);
            registers_audit(share);
            report_progress(share);
        }
    }
}

static void run_secondary(u64 vcpu) {
    run(vcpu);
}

void main(const struct boot *boot) {
    if (mte_version() < 2) {
        console_line("churn: error: this machine has no MTE (ID_AA64PFR1_EL1.MTE is %u)",
                     mte_version());
        return;
    }
    read_command_line(boot);
    divide_memory(boot);
    u64 started = vcpus_start(boot->vcpu_count, run_secondary);
    if (started < boot->vcpu_count) {
        console_line("churn: error: only %lu of %lu vCPUs start", started, boot->vcpu_count);
        return;
    }
    run(0);
}
