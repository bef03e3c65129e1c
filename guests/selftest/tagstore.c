/* STG, ST2G, STZG, STZ2G, STGP in every addressing form.
 *
 * The granules around the target are watched too: their tags and data must stay. */
#include "selftest.h"

#define OLD_TAG 9
#define NEW_TAG 12
#define BASE_TAG 3 /* matches neither: tag stores are not checked */
#define MARGIN (4 * GRANULE_BYTES)

#define FIRST_WORD 0x1111222233334444UL
#define SECOND_WORD 0x5555666677778888UL

enum effect { KEEPS_DATA, ZEROES, STORES_PAIR };

struct store_case {
    const u8 *probe;
    int64_t offset;    /* of the first granule from the base */
    int64_t writeback; /* what is added to the base */
    u64 granules;
    enum effect effect;
};

static void prepare(u64 target, u64 bytes) {
    set_tags(target - MARGIN, bytes + 2 * MARGIN, OLD_TAG);
    fill_pattern(target - MARGIN, bytes + 2 * MARGIN);
}

static void expect_surroundings(u64 target, u64 bytes) {
    expect_tags("tag before", target - MARGIN, MARGIN, OLD_TAG);
    expect_tags("tag behind", target + bytes, MARGIN, OLD_TAG);
    expect_pattern("data before", target - MARGIN, MARGIN);
    expect_pattern("data behind", target + bytes, MARGIN);
}

static void expect_data(u64 target, u64 bytes, enum effect effect) {
    if (effect == KEEPS_DATA) {
        expect_pattern("data", target, bytes);
    } else if (effect == ZEROES) {
        for (u64 offset = 0; offset < bytes; offset += sizeof(u64))
            expect_equal("data", 0, peek(target + offset));
    } else {
        expect_equal("first word", FIRST_WORD, peek(target));
        expect_equal("second word", SECOND_WORD, peek(target + 8));
    }
}

/* STGP's tag is the address's own, that of the others is x1's. */
static unsigned tag_stored(const struct store_case *store) {
    return store->effect == STORES_PAIR ? BASE_TAG : NEW_TAG;
}

static void store_tag(const void *argument) {
    const struct store_case *store = argument;
    u64 base = scratch_pointer(BASE_TAG), bytes = store->granules * GRANULE_BYTES;
    u64 target = base + (u64)store->offset;
    struct registers registers = {{base, (u64)NEW_TAG << TAG_SHIFT, FIRST_WORD, SECOND_WORD}};
    prepare(target, bytes);
    trap_arm(0);
    probe_call(store->probe, &registers);
    expect_no_trap();
    expect_tags("tag", target, bytes, tag_stored(store));
    expect_data(target, bytes, store->effect);
    expect_surroundings(target, bytes);
    expect_equal("base", base + (u64)store->writeback, registers.x[0]);
}

/* A tag store to an address that is not a granule's: alignment fault, nothing changed. */
static void store_misaligned(const void *argument) {
    const struct store_case *store = argument;
    u64 base = scratch_pointer(BASE_TAG), bytes = store->granules * GRANULE_BYTES;
    prepare(base, bytes);
    for (u64 offset = 1; offset < GRANULE_BYTES; offset += 7) {
        u64 target = base + offset + (u64)store->offset;
        probe_traps(store->probe, base + offset,
                    esr_make(EC_DATA_ABORT, FSC_ALIGNMENT | ESR_WNR), target);
    }
    expect_tags("tag", base, bytes, OLD_TAG);
    expect_pattern("data", base, bytes);
}

static void store_without_tag_access(const void *argument) {
    const struct store_case *store = argument;
    u64 base = scratch_pointer(BASE_TAG), bytes = store->granules * GRANULE_BYTES;
    struct registers registers = {{base, (u64)NEW_TAG << TAG_SHIFT, FIRST_WORD, SECOND_WORD}};
    prepare(base, bytes);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    probe_call(store->probe, &registers);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT);
    expect_tags("tag", base, bytes, OLD_TAG);
    expect_data(base, bytes, store->effect);
}

PROBE(stg_from_stack, "mov x2, sp\n\tmov sp, x0\n\tstg sp, [x3]\n\tmov sp, x2");

static void tag_from_stack_pointer(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(0);
    struct registers registers = {{pointer_with_tag(base, NEW_TAG), 0, 0, base}};
    probe_call(probe_stg_from_stack, &registers);
    expect_tags("STG SP, [X3]", base, GRANULE_BYTES, NEW_TAG);
}

static void tag_from_base(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(NEW_TAG);
    mte_stg(base, base);
    expect_tags("STG X0, [X0]", base, GRANULE_BYTES, NEW_TAG);
}

/* Both granules' tags change though the second lies in the next page. */
static void pair_crosses_page(const void *argument) {
    (void)argument;
    u64 last = (u64)scratch + PAGE_BYTES - GRANULE_BYTES;
    prepare(last, 2 * GRANULE_BYTES);
    mte_st2g((u64)NEW_TAG << TAG_SHIFT, last);
    expect_tags("tag", last, 2 * GRANULE_BYTES, NEW_TAG);
    mte_stz2g((u64)OLD_TAG << TAG_SHIFT, last);
    expect_tags("tag", last, 2 * GRANULE_BYTES, OLD_TAG);
    expect_data(last, 2 * GRANULE_BYTES, ZEROES);
    expect_surroundings(last, 2 * GRANULE_BYTES);
}

#define TAG_STORE_PROBES(op)                                                                  \
    PROBE(op##_base, #op " x1, [x0]");                                                        \
    PROBE(op##_next, #op " x1, [x0, #16]");                                                   \
    PROBE(op##_highest, #op " x1, [x0, #4080]");                                              \
    PROBE(op##_lowest, #op " x1, [x0, #-4096]");                                              \
    PROBE(op##_pre, #op " x1, [x0, #64]!");                                                   \
    PROBE(op##_pre_down, #op " x1, [x0, #-4096]!");                                           \
    PROBE(op##_post, #op " x1, [x0], #32");                                                   \
    PROBE(op##_post_down, #op " x1, [x0], #-48");                                             \
    STACK_PROBE(op##_stack, #op " x1, [sp, #48]");                                            \
    STACK_PROBE(op##_stack_pre, #op " x1, [sp, #-64]!");                                      \
    STACK_PROBE(op##_stack_post, #op " x1, [sp], #16")

TAG_STORE_PROBES(stg);
TAG_STORE_PROBES(st2g);
TAG_STORE_PROBES(stzg);
TAG_STORE_PROBES(stz2g);

PROBE(stgp_base, "stgp x2, x3, [x0]");
PROBE(stgp_next, "stgp x2, x3, [x0, #16]");
PROBE(stgp_highest, "stgp x2, x3, [x0, #1008]");
PROBE(stgp_lowest, "stgp x2, x3, [x0, #-1024]");
PROBE(stgp_pre, "stgp x2, x3, [x0, #64]!");
PROBE(stgp_pre_down, "stgp x2, x3, [x0, #-1024]!");
PROBE(stgp_post, "stgp x2, x3, [x0], #32");
PROBE(stgp_post_down, "stgp x2, x3, [x0], #-48");
STACK_PROBE(stgp_stack, "stgp x2, x3, [sp, #48]");
STACK_PROBE(stgp_stack_pre, "stgp x2, x3, [sp, #-64]!");
STACK_PROBE(stgp_stack_post, "stgp x2, x3, [sp], #16");

#define STORE(function, ...) function, &(const struct store_case){__VA_ARGS__}

#define ALL_FORMS(op, highest, lowest, granules, effect)                                      \
    {#op ".base", STORE(store_tag, probe_##op##_base, 0, 0, granules, effect)},               \
    {#op ".offset", STORE(store_tag, probe_##op##_next, 16, 0, granules, effect)},            \
    {#op ".highest-offset",                                                                   \
     STORE(store_tag, probe_##op##_highest, highest, 0, granules, effect)},                   \
    {#op ".lowest-offset",                                                                    \
     STORE(store_tag, probe_##op##_lowest, lowest, 0, granules, effect)},                     \
    {#op ".pre-index", STORE(store_tag, probe_##op##_pre, 64, 64, granules, effect)},         \
    {#op ".pre-index-lowest",                                                                 \
     STORE(store_tag, probe_##op##_pre_down, lowest, lowest, granules, effect)},              \
    {#op ".post-index", STORE(store_tag, probe_##op##_post, 0, 32, granules, effect)},        \
    {#op ".post-index-down",                                                                  \
     STORE(store_tag, probe_##op##_post_down, 0, -48, granules, effect)},                     \
    {#op ".stack-offset", STORE(store_tag, probe_##op##_stack, 48, 0, granules, effect)},     \
    {#op ".stack-pre-index",                                                                  \
     STORE(store_tag, probe_##op##_stack_pre, -64, -64, granules, effect)},                   \
    {#op ".stack-post-index",                                                                 \
     STORE(store_tag, probe_##op##_stack_post, 0, 16, granules, effect)},                     \
    {#op ".misaligned", STORE(store_misaligned, probe_##op##_base, 0, 0, granules, effect)},  \
    {#op ".misaligned-post-index",                                                            \
     STORE(store_misaligned, probe_##op##_post, 0, 0, granules, effect)},                     \
    {#op ".ata-off", STORE(store_without_tag_access, probe_##op##_base, 0, 0, granules, effect)}

static const struct check tagstore_checks[] = {
    ALL_FORMS(stg, 4080, -4096, 1, KEEPS_DATA),
    ALL_FORMS(st2g, 4080, -4096, 2, KEEPS_DATA),
    ALL_FORMS(stzg, 4080, -4096, 1, ZEROES),
    ALL_FORMS(stz2g, 4080, -4096, 2, ZEROES),
    ALL_FORMS(stgp, 1008, -1024, 1, STORES_PAIR),
    {"tag-from-stack-pointer", tag_from_stack_pointer, NULL},
    {"tag-from-base", tag_from_base, NULL},
    {"pair-crosses-page", pair_crosses_page, NULL},
};

TOPIC(tagstore);
