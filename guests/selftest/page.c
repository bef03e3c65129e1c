/* The memory attribute decides whether a granule has a tag: aliases of the same memory as
 * tagged, untagged and device, by pages and by blocks. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6
#define VALUE 0x0123456789abcdefUL

PROBE(page_stg, "stg x0, [x0]");
PROBE(page_stzg, "stzg x0, [x0]");
PROBE(page_ldr_x, "ldr x1, [x0]");
PROBE(page_str_x, "str x1, [x0]");

struct alias_case {
    u64 attributes;
};

/* Page 0 of scratch with TAG throughout, and its alias. */
static u64 tagged_page(u64 attributes) {
    set_tags((u64)scratch, PAGE_BYTES, TAG);
    poke((u64)scratch, VALUE);
    return map_scratch_page(0, attributes);
}

static void expect_value(u64 pointer) {
    struct registers registers = {{pointer}};
    trap_arm(0);
    probe_call(probe_page_ldr_x, &registers);
    expect_no_trap();
    expect_equal("value loaded", VALUE, registers.x[1]);
}

static void tagged_alias(const void *argument) {
    (void)argument;
    u64 page = tagged_page(MAP_TAGGED), wrong = pointer_with_tag(page, WRONG_TAG);
    expect_tags("tag through the alias", page, PAGE_BYTES, TAG);
    expect_value(pointer_with_tag(page, TAG));
    probe_traps(probe_page_ldr_x, wrong, ESR_TAG_CHECK_READ, wrong);
    probe_traps(probe_page_str_x, wrong, ESR_TAG_CHECK_WRITE, wrong);
    set_tags(page, GRANULE_BYTES, WRONG_TAG);
    expect_tags("tag stored through the alias", (u64)scratch, GRANULE_BYTES, WRONG_TAG);
}

static void access_is_unchecked(const void *argument) {
    const struct alias_case *alias = argument;
    u64 page = tagged_page(alias->attributes);
    for (unsigned tag = 0; tag < TAG_COUNT; tag++) {
        expect_value(pointer_with_tag(page, tag));
        probe_runs(probe_page_str_x, pointer_with_tag(page, tag) + 64);
    }
}

static void load_tag_reads_zero(const void *argument) {
    const struct alias_case *alias = argument;
    u64 page = tagged_page(alias->attributes);
    expect_tags("LDG", page, 4 * GRANULE_BYTES, 0);
    expect_equal("LDGM", 0, mte_ldgm(page));
}

/* The store goes through translation and changes no tag. */
static void store_tag_is_ignored(const void *argument) {
    const struct alias_case *alias = argument;
    u64 page = pointer_with_tag(tagged_page(alias->attributes), WRONG_TAG);
    probe_runs(probe_page_stg, page);
    mte_st2g(page, page + 32);
    mte_stgm(0x6666666666666666, page + 256);
    expect_tags("tag", (u64)scratch, PAGE_BYTES, TAG);
    expect_equal("data", VALUE, peek((u64)scratch));
}

static void store_zero_keeps_tag(const void *argument) {
    (void)argument;
    u64 page = pointer_with_tag(tagged_page(MAP_UNTAGGED), WRONG_TAG);
    probe_runs(probe_page_stzg, page);
    expect_tags("tag", (u64)scratch, PAGE_BYTES, TAG);
    expect_equal("data", 0, peek((u64)scratch));
}

static void block_operation_keeps_tags(const void *argument) {
    (void)argument;
    u64 page = pointer_with_tag(tagged_page(MAP_UNTAGGED), WRONG_TAG);
    dc_gva(page);
    expect_equal("data", VALUE, peek((u64)scratch));
    dc_gzva(page);
    expect_equal("data", 0, peek((u64)scratch));
    expect_tags("tag", (u64)scratch, PAGE_BYTES, TAG);
}

/* An access over the border of a tagged and an untagged page: each page by its own rule. */
static void border(const void *argument) {
    (void)argument;
    u64 untagged = MAP_BASE + PAGE_BYTES;
    tagged_page(MAP_TAGGED);
    map_scratch_page(1, MAP_UNTAGGED);
    map_scratch_page(2, MAP_TAGGED);
    set_tags((u64)scratch + 2 * PAGE_BYTES, PAGE_BYTES, TAG);
    u64 right = pointer_with_tag(untagged, TAG), wrong = pointer_with_tag(untagged, WRONG_TAG);
    probe_runs(probe_page_ldr_x, right - 4);
    probe_traps(probe_page_ldr_x, wrong - 4, ESR_TAG_CHECK_READ, wrong - 4);
    u64 end = wrong + PAGE_BYTES;
    probe_traps(probe_page_ldr_x, end - 4, ESR_TAG_CHECK_READ, end);
    probe_runs(probe_page_ldr_x, end - 8);
    probe_runs(probe_page_str_x, right + PAGE_BYTES - 4);
}

static u64 scratch_in_block(u64 attributes) {
    u64 first = (u64)scratch & ~(BLOCK_BYTES - 1);
    set_tags((u64)scratch, PAGE_BYTES, TAG);
    poke((u64)scratch, VALUE);
    map_block(MAP_BLOCKS, first, attributes);
    return MAP_BLOCKS + ((u64)scratch - first);
}

static void tagged_block(const void *argument) {
    (void)argument;
    u64 page = scratch_in_block(MAP_TAGGED), wrong = pointer_with_tag(page, WRONG_TAG);
    expect_tags("tag through the block", page, PAGE_BYTES, TAG);
    expect_value(pointer_with_tag(page, TAG));
    probe_traps(probe_page_ldr_x, wrong, ESR_TAG_CHECK_READ, wrong);
}

static void untagged_block(const void *argument) {
    (void)argument;
    u64 page = scratch_in_block(MAP_UNTAGGED);
    expect_value(pointer_with_tag(page, WRONG_TAG));
    expect_tags("LDG", page, GRANULE_BYTES, 0);
    probe_runs(probe_page_stg, pointer_with_tag(page, WRONG_TAG));
    expect_tags("tag", (u64)scratch, GRANULE_BYTES, TAG);
}

/* The console's flag register through a pointer with a tag. */
static void device_register(const void *argument) {
    (void)argument;
    probe_runs(probe_load, pointer_with_tag(UART_GPA + 0x18, TAG));
}

#define ALIAS(function, attributes) function, &(const struct alias_case){attributes}

static const struct check page_checks[] = {
    {"tagged-alias", tagged_alias, NULL},
    {"untagged-access", ALIAS(access_is_unchecked, MAP_UNTAGGED)},
    {"untagged-ldg", ALIAS(load_tag_reads_zero, MAP_UNTAGGED)},
    {"untagged-stg", ALIAS(store_tag_is_ignored, MAP_UNTAGGED)},
    {"untagged-stzg", store_zero_keeps_tag, NULL},
    {"untagged-dc-gva", block_operation_keeps_tags, NULL},
    {"device-access", ALIAS(access_is_unchecked, MAP_DEVICE)},
    {"device-ldg", ALIAS(load_tag_reads_zero, MAP_DEVICE)},
    {"device-stg", ALIAS(store_tag_is_ignored, MAP_DEVICE)},
    {"border", border, NULL},
    {"tagged-block", tagged_block, NULL},
    {"untagged-block", untagged_block, NULL},
    {"device-register", device_register, NULL},
};

TOPIC(page);
