/* SCTLR_EL1.TCF: what a tag mismatch leads to. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6
#define TF0 1UL
#define TF1 2UL
#define VALUE 0xfeedfacecafef00dUL

#define UPPER_HALF 0xf0ffffff00000000UL /* TTBR1's addresses, with tag 0 */

static u64 wrong_pointer(void) {
    u64 pointer = scratch_pointer(WRONG_TAG);
    set_tags(pointer, 4 * GRANULE_BYTES, TAG);
    return pointer;
}

static void expect_status(u64 expected) {
    barrier_all();
    expect_equal("TFSR_EL1", expected, SYSREG_READ(tfsr_el1));
    expect_equal("TFSRE0_EL1", 0, SYSREG_READ(tfsre0_el1));
}

/* The load returns what is in memory. */
static void expect_load_completes(u64 pointer) {
    struct registers registers = {{pointer}};
    poke(pointer, VALUE);
    trap_arm(0);
    probe_call(probe_load, &registers);
    expect_no_trap();
    expect_equal("value loaded", VALUE, registers.x[1]);
}

static void expect_store_completes(u64 pointer) {
    struct registers registers = {{pointer, VALUE}};
    poke(pointer, 0);
    trap_arm(0);
    probe_call(probe_store, &registers);
    expect_no_trap();
    expect_equal("value stored", VALUE, peek(pointer));
}

static void none(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    mte_set_mode(TCF_NONE);
    expect_load_completes(pointer);
    expect_store_completes(pointer);
    expect_status(0);
}

static void sync_leaves_status(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    probe_traps(probe_load, pointer, ESR_TAG_CHECK_READ, pointer);
    probe_traps(probe_store, pointer, ESR_TAG_CHECK_WRITE, pointer);
    expect_status(0);
}

static void async_load(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    mte_set_mode(TCF_ASYNC);
    expect_load_completes(pointer);
    expect_status(TF0);
}

static void async_store(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    mte_set_mode(TCF_ASYNC);
    expect_store_completes(pointer);
    expect_status(TF0);
}

static void async_match(const void *argument) {
    (void)argument;
    u64 pointer = pointer_with_tag(wrong_pointer(), TAG);
    mte_set_mode(TCF_ASYNC);
    expect_load_completes(pointer);
    expect_store_completes(pointer);
    expect_status(0);
}

/* The flag stays until software clears it, and comes back. */
static void async_accumulates(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    mte_set_mode(TCF_ASYNC);
    expect_load_completes(pointer);
    expect_load_completes(pointer_with_tag(pointer, TAG));
    expect_status(TF0);
    SYSREG_WRITE(tfsr_el1, 0);
    expect_load_completes(pointer_with_tag(pointer, TAG));
    expect_status(0);
    expect_load_completes(pointer);
    expect_status(TF0);
}

/* An access that crosses into a granule with another tag counts too, and completes. */
static void async_crossing(const void *argument) {
    (void)argument;
    u64 pointer = pointer_with_tag(wrong_pointer(), TAG);
    set_tags(pointer + GRANULE_BYTES, GRANULE_BYTES, WRONG_TAG);
    mte_set_mode(TCF_ASYNC);
    expect_store_completes(pointer + 12);
    expect_status(TF0);
}

PROBE(pair_and_atomic, "ldp x2, x3, [x0]\n\tswp x1, x2, [x0]\n\tldr x4, [x0], #16");

static void async_others(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    struct registers registers = {{pointer, VALUE}};
    poke(pointer, 0x1234);
    mte_set_mode(TCF_ASYNC);
    trap_arm(0);
    probe_call(probe_pair_and_atomic, &registers);
    expect_no_trap();
    expect_equal("SWP's old value", 0x1234, registers.x[2]);
    expect_equal("SWP's new value", VALUE, registers.x[4]);
    expect_equal("base", pointer + 16, registers.x[0]);
    expect_status(TF0);
}

static void override_suppresses_status(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    mte_set_mode(TCF_ASYNC);
    TCO_SET();
    expect_load_completes(pointer);
    TCO_CLEAR();
    expect_status(0);
}

static u64 upper_half_pointer(void) {
    u64 lower = wrong_pointer();
    SYSREG_WRITE(tcr_el1, TCR_DEFAULT & ~TCR_EPD1);
    tlb_flush();
    return pointer_untagged(lower) | UPPER_HALF | (u64)WRONG_TAG << TAG_SHIFT;
}

static void upper_half_sync(const void *argument) {
    (void)argument;
    u64 pointer = upper_half_pointer();
    probe_traps(probe_load, pointer, ESR_TAG_CHECK_READ, pointer);
    probe_runs(probe_load, pointer_with_tag(pointer, TAG));
}

static void upper_half_async(const void *argument) {
    (void)argument;
    struct registers registers = {{upper_half_pointer()}};
    mte_set_mode(TCF_ASYNC);
    probe_call(probe_load, &registers);
    expect_status(TF1);
    expect_load_completes(wrong_pointer());
    expect_status(TF0 | TF1);
}

static bool prepare_asymmetric(void) {
    if (mte_version() < 3) {
        skip_check("no asymmetric checking (ID_AA64PFR1_EL1.MTE is 2)");
        return false;
    }
    mte_set_mode(TCF_ASYMMETRIC);
    return true;
}

static void asymmetric_load(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    if (!prepare_asymmetric())
        return;
    probe_traps(probe_load, pointer, ESR_TAG_CHECK_READ, pointer);
    expect_status(0);
}

static void asymmetric_store(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    if (!prepare_asymmetric())
        return;
    expect_store_completes(pointer);
    expect_status(TF0);
}

PROBE(mode_swp, "swp x1, x2, [x0]");

/* A read-modify-write counts as a read: Arm ARM, EffectiveTCF(el, read). */
static void asymmetric_atomic(const void *argument) {
    (void)argument;
    u64 pointer = wrong_pointer();
    if (!prepare_asymmetric())
        return;
    probe_traps(probe_mode_swp, pointer, ESR_TAG_CHECK_READ, pointer);
    expect_status(0);
}

static const struct check mode_checks[] = {
    {"none", none, NULL},
    {"sync-leaves-tfsr", sync_leaves_status, NULL},
    {"async-load", async_load, NULL},
    {"async-store", async_store, NULL},
    {"async-match", async_match, NULL},
    {"async-accumulates", async_accumulates, NULL},
    {"async-crossing", async_crossing, NULL},
    {"async-pair-atomic-writeback", async_others, NULL},
    {"async-tco", override_suppresses_status, NULL},
    {"upper-half-sync", upper_half_sync, NULL},
    {"upper-half-async", upper_half_async, NULL},
    {"asymmetric-load", asymmetric_load, NULL},
    {"asymmetric-store", asymmetric_store, NULL},
    {"asymmetric-atomic", asymmetric_atomic, NULL},
};

TOPIC(mode);
