/* LDG in every addressing form. */
#include "selftest.h"

#define OLD_VALUE 0x5a0000000000beefUL
#define TAG 9
#define LOADED 0x590000000000beefUL /* OLD_VALUE with TAG in bits 59:56 */

struct load_case {
    const u8 *probe;
    int64_t offset; /* of the granule from the base */
};

PROBE(ldg_base, "ldg x1, [x0]");
PROBE(ldg_next, "ldg x1, [x0, #16]");
PROBE(ldg_highest, "ldg x1, [x0, #4080]");
PROBE(ldg_lowest, "ldg x1, [x0, #-4096]");
PROBE(ldg_stack, "mov x2, sp\n\tmov sp, x0\n\tldg x1, [sp, #32]\n\tmov sp, x2");

static void load_tag(const void *argument) {
    const struct load_case *load = argument;
    u64 base = scratch_pointer(3); /* not the granule's tag: LDG is not checked */
    struct registers registers = {{base, OLD_VALUE}};
    set_tags(base + (u64)load->offset, GRANULE_BYTES, TAG);
    trap_arm(0);
    probe_call(load->probe, &registers);
    expect_no_trap();
    expect_equal("tag loaded", LOADED, registers.x[1]);
    expect_equal("base", base, registers.x[0]);
}

static void load_every_tag(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(0);
    for (unsigned tag = 0; tag < TAG_COUNT; tag++)
        set_tags(base + tag * GRANULE_BYTES, GRANULE_BYTES, tag);
    for (unsigned tag = 0; tag < TAG_COUNT; tag++)
        expect_equal("tag", tag, granule_tag(base + tag * GRANULE_BYTES));
}

static void load_misaligned(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(0);
    set_tags(base, GRANULE_BYTES, TAG);
    for (u64 offset = 0; offset < GRANULE_BYTES; offset++)
        expect_equal("tag loaded", LOADED, mte_ldg(OLD_VALUE, base + offset));
}

PROBE(ldg_same, "ldg x0, [x0]");
PROBE(ldg_discard, "ldg xzr, [x0]");

static void load_into_base(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(3);
    set_tags(base, GRANULE_BYTES, TAG);
    expect_equal("LDG X0, [X0]", pointer_with_tag(base, TAG), probe_runs(probe_ldg_same, base));
}

static void load_into_zero_register(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(3);
    expect_equal("base", base, probe_runs(probe_ldg_discard, base));
}

static void load_without_tag_access(const void *argument) {
    (void)argument;
    u64 base = scratch_pointer(0);
    set_tags(base, GRANULE_BYTES, TAG);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    expect_equal("LDG", pointer_with_tag(OLD_VALUE, 0), mte_ldg(OLD_VALUE, base));
}

#define LOAD(...) load_tag, &(const struct load_case){__VA_ARGS__}

static const struct check ldg_checks[] = {
    {"base", LOAD(probe_ldg_base, 0)},
    {"offset", LOAD(probe_ldg_next, 16)},
    {"highest-offset", LOAD(probe_ldg_highest, 4080)},
    {"lowest-offset", LOAD(probe_ldg_lowest, -4096)},
    {"stack-pointer", LOAD(probe_ldg_stack, 32)},
    {"every-tag", load_every_tag, NULL},
    {"misaligned", load_misaligned, NULL},
    {"into-base", load_into_base, NULL},
    {"into-zero-register", load_into_zero_register, NULL},
    {"ata-off", load_without_tag_access, NULL},
};

TOPIC(ldg);
