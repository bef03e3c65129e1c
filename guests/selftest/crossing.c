/* Accesses that reach into a second granule: each granule is checked on its own, and FAR is
 * the first byte that may not be accessed. */
#include "selftest.h"

#define TAG 5
#define OTHER_TAG 6

struct crossing {
    const u8 *probe;
    u64 start; /* of the access, in the first granule */
    u64 syndrome;
};

PROBE(crossing_ldrh, "ldrh w1, [x0]");
PROBE(crossing_ldr_w, "ldr w1, [x0]");
PROBE(crossing_ldr_x, "ldr x1, [x0]");
PROBE(crossing_ldp_w, "ldp w1, w2, [x0]");
PROBE(crossing_ldp_x, "ldp x1, x2, [x0]");
PROBE(crossing_ldp_pre, "ldp x1, x2, [x0, #0]!");
PROBE(crossing_strh, "strh w1, [x0]");
PROBE(crossing_str_w, "str w1, [x0]");
PROBE(crossing_str_x, "str x1, [x0]");
PROBE(crossing_stp_w, "stp w1, w2, [x0]");
PROBE(crossing_stp_x, "stp x1, x2, [x0]");

/* Both granules have the pointer's tag. */
static void both_match(const struct crossing *crossing, u64 first) {
    set_tags(first, 2 * GRANULE_BYTES, TAG);
    probe_runs(crossing->probe, first + crossing->start);
}

static void first_differs(const struct crossing *crossing, u64 first) {
    set_tags(first, GRANULE_BYTES, OTHER_TAG);
    set_tags(first + GRANULE_BYTES, GRANULE_BYTES, TAG);
    fill_pattern(first, 2 * GRANULE_BYTES);
    probe_traps(crossing->probe, first + crossing->start,
                esr_make(EC_DATA_ABORT, crossing->syndrome), first + crossing->start);
    expect_pattern("first granule", first, GRANULE_BYTES);
}

/* What a store did to the first granule is not defined; the second must be untouched. */
static void second_differs(const struct crossing *crossing, u64 first) {
    u64 second = first + GRANULE_BYTES;
    set_tags(first, GRANULE_BYTES, TAG);
    set_tags(second, GRANULE_BYTES, OTHER_TAG);
    fill_pattern(first, 2 * GRANULE_BYTES);
    probe_traps(crossing->probe, first + crossing->start,
                esr_make(EC_DATA_ABORT, crossing->syndrome), second);
    expect_pattern("second granule", second, GRANULE_BYTES);
}

static void in_one_page(const void *argument) {
    both_match(argument, scratch_pointer(TAG));
    first_differs(argument, scratch_pointer(TAG));
    second_differs(argument, scratch_pointer(TAG));
}

static void across_pages(const void *argument) {
    u64 first = scratch_pointer(TAG) - GRANULE_BYTES;
    both_match(argument, first);
    first_differs(argument, first);
    second_differs(argument, first);
}

/* The granule behind is not touched: its tag does not matter. */
static void ends_with_granule(const void *argument) {
    (void)argument;
    u64 first = scratch_pointer(TAG);
    set_tags(first, GRANULE_BYTES, TAG);
    set_tags(first + GRANULE_BYTES, GRANULE_BYTES, OTHER_TAG);
    probe_runs(probe_crossing_ldr_x, first + 8);
    probe_runs(probe_crossing_ldp_x, first);
    probe_runs(probe_crossing_str_w, first + 12);
    probe_runs(probe_crossing_strh, first + 14);
}

#define READ FSC_TAG_CHECK
#define WRITE (FSC_TAG_CHECK | ESR_WNR)
#define CROSSING(function, ...) function, &(const struct crossing){__VA_ARGS__}

static const struct check crossing_checks[] = {
    {"ldrh", CROSSING(in_one_page, probe_crossing_ldrh, 15, READ)},
    {"ldr-w", CROSSING(in_one_page, probe_crossing_ldr_w, 14, READ)},
    {"ldr-x", CROSSING(in_one_page, probe_crossing_ldr_x, 12, READ)},
    {"ldr-x-last-byte", CROSSING(in_one_page, probe_crossing_ldr_x, 9, READ)},
    {"ldp-w", CROSSING(in_one_page, probe_crossing_ldp_w, 12, READ)},
    {"ldp-x", CROSSING(in_one_page, probe_crossing_ldp_x, 8, READ)},
    {"ldp-x-misaligned", CROSSING(in_one_page, probe_crossing_ldp_x, 3, READ)},
    {"ldp-pre-index", CROSSING(in_one_page, probe_crossing_ldp_pre, 8, READ)},
    {"strh", CROSSING(in_one_page, probe_crossing_strh, 15, WRITE)},
    {"str-w", CROSSING(in_one_page, probe_crossing_str_w, 13, WRITE)},
    {"str-x", CROSSING(in_one_page, probe_crossing_str_x, 12, WRITE)},
    {"stp-w", CROSSING(in_one_page, probe_crossing_stp_w, 12, WRITE)},
    {"stp-x", CROSSING(in_one_page, probe_crossing_stp_x, 8, WRITE)},
    {"stp-x-misaligned", CROSSING(in_one_page, probe_crossing_stp_x, 5, WRITE)},
    {"ldr-x-two-pages", CROSSING(across_pages, probe_crossing_ldr_x, 12, READ)},
    {"ldp-x-two-pages", CROSSING(across_pages, probe_crossing_ldp_x, 8, READ)},
    {"str-x-two-pages", CROSSING(across_pages, probe_crossing_str_x, 12, WRITE)},
    {"stp-x-two-pages", CROSSING(across_pages, probe_crossing_stp_x, 8, WRITE)},
    {"ends-with-granule", ends_with_granule, NULL},
};

TOPIC(crossing);
