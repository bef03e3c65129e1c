/* Translation, access flag and permission faults of data, tags and instructions. */
#include "selftest.h"

#define POINTER_TAG 7 /* FAR shows the address as the instruction gave it */

enum mapping { LEVEL_3, LEVEL_2, LEVEL_1 };

struct fault_case {
    const u8 *probe;
    enum mapping mapping;
    u64 descriptor; /* attributes; 0 leaves the address unmapped */
    u64 syndrome;
};

PROBE(fault_ldr, "ldr x1, [x0]");
PROBE(fault_str, "str xzr, [x0]");
PROBE(fault_swp, "swp x1, x2, [x0]");
PROBE(fault_ldg, "ldg x1, [x0]");
PROBE(fault_stg, "stg x0, [x0]");
PROBE(fault_st2g, "st2g x0, [x0]");
PROBE(fault_stzg, "stzg x0, [x0]");
PROBE(fault_stgp, "stgp x1, x2, [x0]");
PROBE(fault_ldgm, "ldgm x1, [x0]");
PROBE(fault_stgm, "stgm x1, [x0]");
PROBE(fault_stzgm, "stzgm x1, [x0]");
PROBE(fault_zva, "dc zva, x0");
PROBE(fault_gva, "dc gva, x0");
PROBE(fault_gzva, "dc gzva, x0");

static u64 map_for(const struct fault_case *fault) {
    switch (fault->mapping) {
    case LEVEL_3:
        if (fault->descriptor)
            map_scratch_page(1, fault->descriptor);
        return MAP_BASE + PAGE_BYTES;
    case LEVEL_2:
        if (fault->descriptor)
            map_block(MAP_BLOCKS, (u64)scratch & ~(BLOCK_BYTES - 1), fault->descriptor);
        return MAP_BLOCKS + ((u64)scratch & (BLOCK_BYTES - 1));
    default:
        unmap_level_1();
        return MAP_BASE;
    }
}

static void data_abort(const void *argument) {
    const struct fault_case *fault = argument;
    fill_pattern((u64)scratch, 2 * PAGE_BYTES);
    set_tags((u64)scratch, 2 * PAGE_BYTES, POINTER_TAG);
    u64 address = pointer_with_tag(map_for(fault), POINTER_TAG);
    probe_traps(fault->probe, address, esr_make(EC_DATA_ABORT, fault->syndrome), address);
    expect_pattern("memory", (u64)scratch, 2 * PAGE_BYTES);
    expect_tags("tag", (u64)scratch, 2 * PAGE_BYTES, POINTER_TAG);
}

/* Reading, data or tags, is fine where only writing is forbidden. */
static void read_only_reads(const void *argument) {
    (void)argument;
    u64 page = map_scratch_page(1, MAP_TAGGED | PTE_READ_ONLY);
    probe_runs(probe_fault_ldr, page);
    probe_runs(probe_fault_ldg, page);
    probe_runs(probe_fault_ldgm, page);
}

/* The fault of translation comes before that of the tag. */
static void translation_before_tag(const void *argument) {
    (void)argument;
    u64 page = pointer_with_tag(map_scratch_page(1, MAP_TAGGED | PTE_READ_ONLY), POINTER_TAG);
    probe_traps(probe_fault_str, page, esr_make(EC_DATA_ABORT, FSC_PERMISSION(3) | ESR_WNR), page);
    probe_traps(probe_fault_ldr, page, ESR_TAG_CHECK_READ, page);
}

/* Outside of what T0SZ allows. */
static void out_of_range(const void *argument) {
    (void)argument;
    u64 address = 1UL << 32;
    probe_traps(probe_fault_ldr, address, esr_make(EC_DATA_ABORT, FSC_TRANSLATION(0)), address);
    probe_traps(probe_fault_stg, address,
                esr_make(EC_DATA_ABORT, FSC_TRANSLATION(0) | ESR_WNR), address);
}

/* TCR_EL1.EPD1: no walks for the upper half. */
static void upper_half_disabled(const void *argument) {
    (void)argument;
    u64 address = ~0xffffffffUL + (u64)scratch;
    probe_traps(probe_fault_ldr, address, esr_make(EC_DATA_ABORT, FSC_TRANSLATION(0)), address);
}

/* An access whose second part is in a page that is not there. */
static void second_page_missing(const void *argument) {
    (void)argument;
    u64 end = map_scratch_page(0, MAP_TAGGED) + PAGE_BYTES;
    fill_pattern((u64)scratch, PAGE_BYTES);
    probe_runs(probe_fault_ldr, end - 8);
    probe_traps(probe_fault_ldr, end - 3, esr_make(EC_DATA_ABORT, FSC_TRANSLATION(3)), end);
    probe_traps(probe_fault_str, end - 3, esr_make(EC_DATA_ABORT, FSC_TRANSLATION(3) | ESR_WNR),
                end);
    probe_traps(probe_fault_st2g, end - GRANULE_BYTES,
                esr_make(EC_DATA_ABORT, FSC_TRANSLATION(3) | ESR_WNR), end);
}

PROBE(branch, "mov x9, x30\n\tblr x0\n\tmov x30, x9");
#define BRANCH_RETURNS_AT 8

/* Branches to `target`; the trap goes on behind the branch. */
static void fetch_traps(u64 target, u64 esr, u64 far) {
    struct registers registers = {{target}};
    trap_arm((u64)probe_branch + BRANCH_RETURNS_AT);
    probe_call(probe_branch, &registers);
    expect_trap(esr, far, far);
}

static void fetch_unmapped(const void *argument) {
    (void)argument;
    map_scratch_page(0, MAP_TAGGED);
    u64 page = MAP_BASE + PAGE_BYTES;
    fetch_traps(page, esr_make(EC_FETCH_ABORT, FSC_TRANSLATION(3)), page);
}

static void fetch_forbidden(const void *argument) {
    (void)argument;
    u64 page = map_scratch_page(1, MAP_TAGGED);
    fetch_traps(page, esr_make(EC_FETCH_ABORT, FSC_PERMISSION(3)), page);
}

static void fetch_misaligned(const void *argument) {
    (void)argument;
    u64 target = (u64)probe_fault_ldr + 2;
    fetch_traps(target, esr_make(EC_PC_ALIGNMENT, 0), target);
}

PROBE(misaligned_atomic, "ldadd x1, x2, [x0]");
PROBE(misaligned_load_exclusive, "ldxr x1, [x0]");
PROBE(misaligned_load_acquire, "ldar x1, [x0]");
PROBE(misaligned_store_release, "stlr x1, [x0]");

struct alignment_case {
    const u8 *probe;
    u64 write_bit;
    bool qemu_sets_write_bit;
};

/* Not within 16 bytes: alignment fault even with SCTLR_EL1.A clear. */
static void misaligned(const void *argument) {
    const struct alignment_case *alignment = argument;
    u64 address = (u64)scratch + 12;
    u64 esr = esr_make(EC_DATA_ABORT, FSC_ALIGNMENT | alignment->write_bit);
    struct registers registers = {{address}};
    trap_arm(0);
    probe_call(alignment->probe, &registers);
    const struct frame *frame = trap_taken();
    if (frame && alignment->qemu_sets_write_bit && frame->esr == (esr | ESR_WNR)) {
        pass_as_qemu();
        esr |= ESR_WNR;
    }
    expect_true("exception taken", frame != NULL);
    if (frame) {
        expect_equal("ESR_EL1", esr, frame->esr & ESR_LOW_MASK);
        expect_equal("FAR_EL1", address, frame->far);
    }
}

PROBE(breakpoint, "brk #0x42");

static void breakpoint(const void *argument) {
    (void)argument;
    trap_arm(0);
    probe_call(probe_breakpoint, &(struct registers){0});
    const struct frame *frame = trap_taken();
    expect_true("exception taken", frame != NULL);
    if (frame) {
        expect_equal("ESR_EL1", esr_make(EC_BRK, 0x42), frame->esr & ESR_LOW_MASK);
        expect_equal("ELR_EL1", (u64)probe_breakpoint, frame->elr);
    }
}

#define NO_ACCESS (MAP_TAGGED & ~PTE_ACCESSED)
#define READ_ONLY (MAP_TAGGED | PTE_READ_ONLY)
#define FAULT(name, probe, ...)                                                               \
    {name, data_abort, &(const struct fault_case){probe_fault_##probe, __VA_ARGS__}}

#define MISALIGNED(...) misaligned, &(const struct alignment_case){__VA_ARGS__}

static const struct check fault_checks[] = {
    FAULT("translation-1-ldr", ldr, LEVEL_1, 0, FSC_TRANSLATION(1)),
    FAULT("translation-1-stg", stg, LEVEL_1, 0, FSC_TRANSLATION(1) | ESR_WNR),
    FAULT("translation-2-ldr", ldr, LEVEL_2, 0, FSC_TRANSLATION(2)),
    FAULT("translation-2-ldg", ldg, LEVEL_2, 0, FSC_TRANSLATION(2)),
    FAULT("translation-3-ldr", ldr, LEVEL_3, 0, FSC_TRANSLATION(3)),
    FAULT("translation-3-str", str, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-ldg", ldg, LEVEL_3, 0, FSC_TRANSLATION(3)),
    FAULT("translation-3-stg", stg, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-st2g", st2g, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-stzg", stzg, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-stgp", stgp, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-ldgm", ldgm, LEVEL_3, 0, FSC_TRANSLATION(3)),
    FAULT("translation-3-stgm", stgm, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-stzgm", stzgm, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-dc-zva", zva, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-dc-gva", gva, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("translation-3-dc-gzva", gzva, LEVEL_3, 0, FSC_TRANSLATION(3) | ESR_WNR),
    FAULT("access-flag-2-ldr", ldr, LEVEL_2, NO_ACCESS, FSC_ACCESS_FLAG(2)),
    FAULT("access-flag-2-stg", stg, LEVEL_2, NO_ACCESS, FSC_ACCESS_FLAG(2) | ESR_WNR),
    FAULT("access-flag-3-ldr", ldr, LEVEL_3, NO_ACCESS, FSC_ACCESS_FLAG(3)),
    FAULT("access-flag-3-str", str, LEVEL_3, NO_ACCESS, FSC_ACCESS_FLAG(3) | ESR_WNR),
    FAULT("access-flag-3-ldg", ldg, LEVEL_3, NO_ACCESS, FSC_ACCESS_FLAG(3)),
    FAULT("permission-2-str", str, LEVEL_2, READ_ONLY, FSC_PERMISSION(2) | ESR_WNR),
    FAULT("permission-2-stg", stg, LEVEL_2, READ_ONLY, FSC_PERMISSION(2) | ESR_WNR),
    FAULT("permission-3-str", str, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-swp", swp, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-stg", stg, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-stzg", stzg, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-stgp", stgp, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-stgm", stgm, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-dc-gva", gva, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    FAULT("permission-3-dc-zva", zva, LEVEL_3, READ_ONLY, FSC_PERMISSION(3) | ESR_WNR),
    {"read-only-reads", read_only_reads, NULL},
    {"translation-before-tag", translation_before_tag, NULL},
    {"out-of-range", out_of_range, NULL},
    {"upper-half-disabled", upper_half_disabled, NULL},
    {"second-page-missing", second_page_missing, NULL},
    {"fetch-unmapped", fetch_unmapped, NULL},
    {"fetch-forbidden", fetch_forbidden, NULL},
    {"fetch-misaligned", fetch_misaligned, NULL},
    {"misaligned-ldadd", MISALIGNED(probe_misaligned_atomic, 0, true)},
    {"misaligned-ldxr", MISALIGNED(probe_misaligned_load_exclusive, 0, true)},
    {"misaligned-ldar", MISALIGNED(probe_misaligned_load_acquire, 0, false)},
    {"misaligned-stlr", MISALIGNED(probe_misaligned_store_release, ESR_WNR, false)},
    {"breakpoint", breakpoint, NULL},
};

TOPIC(fault);
