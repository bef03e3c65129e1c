/* ADDG, SUBG, GMI, SUBP, SUBPS. */
#include "lfsr.h"
#include "selftest.h"

#define POINTER 0x0500000012345670UL
#define NZCV_SHIFT 28

struct add_case {
    u64 gcr;
    u64 pointer;
    u64 expected;
    const u8 *probe;
};

PROBE(addg_0_0, "addg x0, x0, #0, #0");
PROBE(addg_16_1, "addg x0, x0, #16, #1");
PROBE(addg_1008_15, "addg x0, x0, #1008, #15");
PROBE(subg_0_0, "subg x0, x0, #0, #0");
PROBE(subg_16_1, "subg x0, x0, #16, #1");
PROBE(subg_1008_15, "subg x0, x0, #1008, #15");
PROBE(addg_stack, "mov x2, sp\n\tmov sp, x0\n\taddg sp, sp, #32, #2\n\tmov x0, sp\n\tmov sp, x2");
PROBE(subg_stack, "mov x2, sp\n\tmov sp, x0\n\tsubg sp, sp, #32, #2\n\tmov x0, sp\n\tmov sp, x2");

static void add_or_subtract(const void *argument) {
    const struct add_case *add = argument;
    SYSREG_WRITE(gcr_el1, add->gcr);
    expect_equal("result", add->expected, probe_runs(add->probe, add->pointer));
}

static void add_without_tag_access(const void *argument) {
    (void)argument;
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    expect_equal("ADDG", 0x12345680, probe_runs(probe_addg_16_1, POINTER));
    expect_equal("SUBG", 0x12345660, probe_runs(probe_subg_16_1, POINTER));
}

/* Every start, every step, some masks: against the same function that IRG uses. */
static void add_all_tags(const void *argument) {
    (void)argument;
    static const u64 masks[] = {0, 0x0001, 0x8000, 0x00f0, 0xaaaa, 0xfffe, 0x7fff, 0xffff};
    for (size_t i = 0; i < COUNT(masks); i++) {
        SYSREG_WRITE(gcr_el1, masks[i]);
        for (unsigned tag = 0; tag < TAG_COUNT; tag++) {
            u64 pointer = pointer_with_tag(POINTER, tag);
            expect_equal("ADDG #1", lfsr_choose_tag(tag, 1, masks[i]),
                         pointer_tag(MTE_ADDG(pointer, 0, 1)));
            expect_equal("ADDG #7", lfsr_choose_tag(tag, 7, masks[i]),
                         pointer_tag(MTE_ADDG(pointer, 16, 7)));
            expect_equal("SUBG #0", lfsr_choose_tag(tag, 0, masks[i]),
                         pointer_tag(MTE_SUBG(pointer, 0, 0)));
            expect_equal("SUBG #3", lfsr_choose_tag(tag, 3, masks[i]),
                         pointer_tag(MTE_SUBG(pointer, 16, 3)));
        }
    }
}

static void mask_insert(const void *argument) {
    (void)argument;
    for (unsigned tag = 0; tag < TAG_COUNT; tag++)
        expect_equal("GMI", 0xabcd00000000UL | 1UL << tag,
                     mte_gmi(pointer_with_tag(POINTER, tag), 0xabcd00000000UL));
    expect_equal("GMI of a set bit", 0x20, mte_gmi(POINTER, 0x20));
}

PROBE(gmi_stack, "mov x2, sp\n\tmov sp, x0\n\tgmi x0, sp, xzr\n\tmov sp, x2");

static void mask_insert_stack(const void *argument) {
    (void)argument;
    expect_equal("GMI Xd, SP, XZR", 1UL << 7, probe_runs(probe_gmi_stack, 0x0700000000010000));
}

/* GMI and SUBP do not depend on the tags being accessible. */
static void independent_of_tag_access(const void *argument) {
    (void)argument;
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    expect_equal("GMI", 0x20, mte_gmi(POINTER, 0));
    expect_equal("SUBP", 0x10, mte_subp(POINTER, 0x0a00000012345660));
}

struct difference {
    u64 left;
    u64 right;
    u64 expected;
    u64 flags; /* NZCV */
};

static void subtract(const void *argument) {
    const struct difference *difference = argument;
    u64 flags;
    expect_equal("SUBP", difference->expected, mte_subp(difference->left, difference->right));
    expect_equal("SUBPS", difference->expected,
                 mte_subps(difference->left, difference->right, &flags));
    expect_equal("NZCV", difference->flags, flags >> NZCV_SHIFT);
}

PROBE(subp_keeps_flags, "msr nzcv, x1\n\tsubp x0, x0, x0\n\tmrs x1, nzcv");
PROBE(cmpp, "cmpp x0, x1\n\tmrs x0, nzcv");
PROBE(subp_stack, "mov x2, sp\n\tmov sp, x0\n\tsubp x0, sp, x1\n\tsubps x1, x1, sp\n\tmov sp, x2");

static void subtract_keeps_flags(const void *argument) {
    (void)argument;
    struct registers registers = {{POINTER, 0xaUL << NZCV_SHIFT}};
    probe_call(probe_subp_keeps_flags, &registers);
    expect_equal("SUBP", 0, registers.x[0]);
    expect_equal("NZCV", 0xaUL << NZCV_SHIFT, registers.x[1]);
}

static void compare_pointers(const void *argument) {
    (void)argument;
    struct registers registers = {{POINTER, 0x0a00000012345670}};
    probe_call(probe_cmpp, &registers);
    expect_equal("NZCV", 0x6UL << NZCV_SHIFT, registers.x[0]);
}

static void subtract_stack(const void *argument) {
    (void)argument;
    struct registers registers = {{0x0700000000010000, 0x0000000000000fff}};
    probe_call(probe_subp_stack, &registers);
    expect_equal("SUBP Xd, SP, Xm", 0xf001, registers.x[0]);
    expect_equal("SUBPS Xd, Xn, SP", -0xf001UL, registers.x[1]);
}

#define ADD(...) add_or_subtract, &(const struct add_case){__VA_ARGS__}
#define SUBTRACT(...) subtract, &(const struct difference){__VA_ARGS__}
#define N 8
#define Z 4
#define C 2

static const struct check arithmetic_checks[] = {
    {"addg-nothing", ADD(0, POINTER, POINTER, probe_addg_0_0)},
    {"addg-smallest", ADD(0, POINTER, 0x0600000012345680, probe_addg_16_1)},
    {"addg-largest", ADD(0, POINTER, 0x0400000012345a60, probe_addg_1008_15)},
    {"addg-keeps-upper-bits", ADD(0, 0xf5ff000012345670, 0xf6ff000012345680, probe_addg_16_1)},
    {"addg-carry-passes-tag", ADD(0, 0x3fffffffffffffff, 0x400000000000000f, probe_addg_16_1)},
    {"addg-tag-wraps", ADD(0, 0x1f00000000000000, 0x1000000000000010, probe_addg_16_1)},
    {"addg-skips-excluded", ADD(0x00c0, POINTER, 0x0800000012345680, probe_addg_16_1)},
    {"addg-leaves-excluded-start", ADD(0x0020, POINTER, 0x0600000012345670, probe_addg_0_0)},
    {"addg-all-excluded", ADD(0xffff, POINTER, 0x0000000012345680, probe_addg_16_1)},
    {"addg-stack-pointer", ADD(0, POINTER, 0x0700000012345690, probe_addg_stack)},
    {"subg-nothing", ADD(0, POINTER, POINTER, probe_subg_0_0)},
    {"subg-smallest", ADD(0, POINTER, 0x0600000012345660, probe_subg_16_1)},
    {"subg-largest", ADD(0, POINTER, 0x0400000012345280, probe_subg_1008_15)},
    {"subg-borrow-passes-tag", ADD(0, 0x3000000000000000, 0x21fffffffffffff0, probe_subg_16_1)},
    {"subg-skips-excluded", ADD(0x00c0, POINTER, 0x0800000012345660, probe_subg_16_1)},
    {"subg-stack-pointer", ADD(0, POINTER, 0x0700000012345650, probe_subg_stack)},
    {"addg-subg-all-tags", add_all_tags, NULL},
    {"addg-subg-ata-off", add_without_tag_access, NULL},
    {"gmi", mask_insert, NULL},
    {"gmi-stack-pointer", mask_insert_stack, NULL},
    {"gmi-subp-ata-off", independent_of_tag_access, NULL},
    {"subp-equal", SUBTRACT(POINTER, 0x0a00000012345670, 0, Z | C)},
    {"subp-positive", SUBTRACT(0x0300000000000020, 0x0c00000000000008, 0x18, C)},
    {"subp-negative", SUBTRACT(0x0300000000000008, 0x0c00000000000020, -0x18UL, N)},
    {"subp-ignores-top-byte", SUBTRACT(0xff00000000000005, 0x0000000000000001, 4, C)},
    {"subp-extends-bit-55", SUBTRACT(0x0080000000000000, 0x0000000000000001, 0xff7fffffffffffff,
                                     N | C)},
    {"subp-upper-half", SUBTRACT(0x0000000000000001, 0x00ffffffffffffff, 2, 0)},
    {"subp-keeps-flags", subtract_keeps_flags, NULL},
    {"cmpp", compare_pointers, NULL},
    {"subp-stack-pointer", subtract_stack, NULL},
};

TOPIC(arithmetic);
