/* Accesses that are not checked although their tag does not match. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6
#define UPPER_HALF 0xf0ffffff00000000UL

static u64 tagged_granules(void) {
    u64 pointer = scratch_pointer(WRONG_TAG);
    set_tags(pointer, 4 * GRANULE_BYTES, TAG);
    return pointer;
}

static void set_translation_control(u64 value) {
    SYSREG_WRITE(tcr_el1, value);
    tlb_flush();
}

static void expect_unchecked(u64 pointer) {
    probe_runs(probe_load, pointer);
    probe_runs(probe_store, pointer);
}

static void expect_checked(u64 pointer) {
    probe_traps(probe_load, pointer, ESR_TAG_CHECK_READ, pointer);
    probe_traps(probe_store, pointer, ESR_TAG_CHECK_WRITE, pointer);
}

static void override(const void *argument) {
    (void)argument;
    u64 pointer = tagged_granules();
    TCO_SET();
    expect_unchecked(pointer);
    TCO_CLEAR();
    expect_checked(pointer);
}

/* The override of the interrupted code comes back with ERET: checks work right after. */
static void override_ends_with_eret(const void *argument) {
    (void)argument;
    u64 pointer = tagged_granules();
    trap_arm(0);
    __asm__ volatile("svc #0\n\tnop" : : : "memory");
    trap_taken();
    expect_checked(pointer);
}

static void tag_access_off(const void *argument) {
    (void)argument;
    u64 pointer = tagged_granules();
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    expect_unchecked(pointer);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT);
    expect_checked(pointer);
}

/* TCMA0: tag 0 matches everything; no other tag does. */
static void match_all_lower(const void *argument) {
    (void)argument;
    u64 pointer = tagged_granules();
    expect_checked(pointer_untagged(pointer));
    set_translation_control(TCR_DEFAULT | TCR_TCMA0);
    expect_unchecked(pointer_untagged(pointer));
    expect_checked(pointer);
    expect_checked(pointer_with_tag(pointer, 15));
    expect_unchecked(pointer_with_tag(pointer, TAG));
}

/* TCMA1 and tag 15 in the upper half; bits 63:60 are not part of it. */
static void match_all_upper(const void *argument) {
    (void)argument;
    u64 pointer = pointer_untagged(tagged_granules()) | UPPER_HALF;
    u64 upper = TCR_DEFAULT & ~TCR_EPD1;
    set_translation_control(upper);
    expect_checked(pointer_with_tag(pointer, 15));
    set_translation_control(upper | TCR_TCMA1);
    expect_unchecked(pointer_with_tag(pointer, 15));
    expect_unchecked(pointer_with_tag(pointer, 15) & ~(0xfUL << 60));
    expect_checked(pointer_with_tag(pointer, 0));
    expect_checked(pointer_with_tag(pointer, WRONG_TAG));
}

/* Each TCMA bit is for its own half. */
static void match_all_other_half(const void *argument) {
    (void)argument;
    u64 lower = pointer_untagged(tagged_granules());
    u64 upper = pointer_with_tag(lower | UPPER_HALF, 15);
    set_translation_control((TCR_DEFAULT & ~TCR_EPD1) | TCR_TCMA1);
    expect_checked(lower);
    expect_checked(pointer_with_tag(lower, 15));
    set_translation_control((TCR_DEFAULT & ~TCR_EPD1) | TCR_TCMA0);
    expect_checked(upper);
    expect_checked(pointer_with_tag(upper, 0));
}

/* Without TBI no access is checked, and a tag in the pointer is a bad address. */
static void top_byte_counts(const void *argument) {
    (void)argument;
    u64 pointer = tagged_granules();
    set_translation_control(TCR_DEFAULT & ~TCR_TBI0);
    expect_unchecked(pointer_untagged(pointer));
    probe_traps(probe_load, pointer, esr_make(EC_DATA_ABORT, FSC_TRANSLATION(0)), pointer);
}

/* Bits 63:60 are ignored with TBI: neither a bad address nor part of the tag. */
static void upper_nibble_is_ignored(const void *argument) {
    (void)argument;
    u64 pointer = tagged_granules();
    expect_unchecked(pointer_with_tag(pointer, TAG) | 0xaUL << 60);
    expect_checked(pointer | 0xaUL << 60);
}

PROBE(literal, "ldr x1, 0f\n\tret\n\t.balign 16\n0:\t.quad 0x5eed");

/* A PC-relative load is never checked: this one reads a granule with another tag. */
static void literal(const void *argument) {
    (void)argument;
    struct registers registers = {{0}};
    u64 granule = ((u64)probe_literal + 8 + GRANULE_BYTES - 1) & ~(GRANULE_BYTES - 1);
    set_tags(granule, GRANULE_BYTES, TAG);
    trap_arm(0);
    probe_call(probe_literal, &registers);
    expect_no_trap();
    set_tags(granule, GRANULE_BYTES, 0);
    expect_equal("literal", 0x5eed, registers.x[1]);
}

PROBE(hints, "prfm pldl1keep, [x0]\n\tprfm pstl1strm, [x0, #8]\n\tprfum pldl2keep, [x0, #-8]\n\t"
             "dc cvac, x0\n\tdc civac, x0\n\tldg x1, [x0]");

static void hints(const void *argument) {
    (void)argument;
    probe_runs(probe_hints, tagged_granules());
}

/* Instructions are fetched whatever tag their memory has. */
static void fetch(const void *argument) {
    (void)argument;
    u64 granule = (u64)probe_load & ~(GRANULE_BYTES - 1);
    set_tags(granule, 2 * GRANULE_BYTES, TAG);
    probe_runs(probe_load, (u64)scratch);
    set_tags(granule, 2 * GRANULE_BYTES, 0);
}

static const struct check exemption_checks[] = {
    {"tco", override, NULL},
    {"tco-ends-with-eret", override_ends_with_eret, NULL},
    {"ata-off", tag_access_off, NULL},
    {"tcma0", match_all_lower, NULL},
    {"tcma1", match_all_upper, NULL},
    {"tcma-other-half", match_all_other_half, NULL},
    {"tbi-off", top_byte_counts, NULL},
    {"upper-nibble", upper_nibble_is_ignored, NULL},
    {"literal", literal, NULL},
    {"prefetch-and-clean", hints, NULL},
    {"instruction-fetch", fetch, NULL},
};

TOPIC(exemption);
