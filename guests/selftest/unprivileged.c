/* LDTR and STTR: EL1's code under EL0's rules: TCF0, ATA0, TFSRE0_EL1. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6
#define TF0 1UL
#define VALUE 0x0123456789abcdefUL

PROBE(ldtr, "ldtr x1, [x0]");
PROBE(ldtrb, "ldtrb w1, [x0, #3]");
PROBE(ldtrsw, "ldtrsw x1, [x0, #-4]");
PROBE(sttr, "sttr x1, [x0]");
PROBE(sttrh, "sttrh w1, [x0, #2]");
STACK_PROBE(ldtr_stack, "ldtr x1, [sp, #16]");
STACK_PROBE(sttr_stack, "sttr x1, [sp, #16]");

static u64 tagged_page(u64 attributes) {
    set_tags((u64)scratch, 2 * PAGE_BYTES, TAG);
    return pointer_with_tag(map_scratch_page(1, attributes) + 256, WRONG_TAG);
}

/* EL1's own checking is off, so that whatever faults does so by EL0's rules. */
static void set_el0_mode(enum tag_check_mode mode, bool tag_access) {
    u64 sctlr = SCTLR_DEFAULT & ~SCTLR_TCF_MASK;
    SYSREG_WRITE(sctlr_el1,
                 sctlr | (u64)mode << SCTLR_TCF0_SHIFT | (tag_access ? SCTLR_ATA0 : 0));
}

static void expect_status(u64 el0_expected) {
    barrier_all();
    expect_equal("TFSR_EL1", 0, SYSREG_READ(tfsr_el1));
    expect_equal("TFSRE0_EL1", el0_expected, SYSREG_READ(tfsre0_el1));
}

static void sync(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_EL0_DATA);
    set_el0_mode(TCF_SYNC, true);
    probe_traps(probe_ldtr, pointer, ESR_TAG_CHECK_READ, pointer);
    probe_traps(probe_ldtrb, pointer, ESR_TAG_CHECK_READ, pointer + 3);
    probe_traps(probe_ldtrsw, pointer, ESR_TAG_CHECK_READ, pointer - 4);
    probe_traps(probe_sttr, pointer, ESR_TAG_CHECK_WRITE, pointer);
    probe_traps(probe_sttrh, pointer, ESR_TAG_CHECK_WRITE, pointer + 2);
    probe_runs(probe_ldtr, pointer_with_tag(pointer, TAG));
    probe_runs(probe_sttr, pointer_with_tag(pointer, TAG));
    probe_runs(probe_load, pointer);
    expect_status(0);
}

/* The other way round: EL1 checks, EL0 does not. */
static void none(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_EL0_DATA);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT | SCTLR_ATA0);
    probe_runs(probe_ldtr, pointer);
    probe_runs(probe_sttr, pointer);
    probe_traps(probe_load, pointer, ESR_TAG_CHECK_READ, pointer);
}

static void tag_access_off(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_EL0_DATA);
    set_el0_mode(TCF_SYNC, false);
    probe_runs(probe_ldtr, pointer);
    probe_runs(probe_sttr, pointer);
}

static void async(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_EL0_DATA);
    struct registers registers = {{pointer, VALUE}};
    set_el0_mode(TCF_ASYNC, true);
    trap_arm(0);
    probe_call(probe_sttr, &registers);
    expect_no_trap();
    expect_status(TF0);
    expect_equal("value stored", VALUE, peek(pointer));
}

static void override(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_EL0_DATA);
    set_el0_mode(TCF_SYNC, true);
    TCO_SET();
    probe_runs(probe_ldtr, pointer);
    probe_runs(probe_sttr, pointer);
}

static void stack(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_EL0_DATA);
    set_el0_mode(TCF_SYNC, true);
    probe_runs(probe_ldtr_stack, pointer);
    probe_runs(probe_sttr_stack, pointer);
}

/* EL0's permissions count: the page is EL1's. */
static void permission(const void *argument) {
    (void)argument;
    u64 pointer = tagged_page(MAP_TAGGED);
    probe_traps(probe_ldtr, pointer, esr_make(EC_DATA_ABORT, FSC_PERMISSION(3)), pointer);
    probe_traps(probe_sttr, pointer, esr_make(EC_DATA_ABORT, FSC_PERMISSION(3) | ESR_WNR),
                pointer);
}

static const struct check unprivileged_checks[] = {
    {"sync", sync, NULL},
    {"none", none, NULL},
    {"ata0-off", tag_access_off, NULL},
    {"async", async, NULL},
    {"tco", override, NULL},
    {"stack-pointer", stack, NULL},
    {"permission", permission, NULL},
};

TOPIC(unprivileged);
