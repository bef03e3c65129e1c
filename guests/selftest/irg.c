/* IRG: the tags that it may draw and, with GCR_EL1.RRND = 0, the ones that it must. */
#include "lfsr.h"
#include "selftest.h"

#define DRAWS 200
#define ALL_TAGS 0xffffUL
#define RRND (1UL << 16)

/* A pointer with every bit that IRG must keep set to something. */
#define POINTER 0xd2ff5a5a12345678UL

struct sequence {
    u64 rgsr;
    u64 gcr;
    u64 exclude;
};

/* Draws and compares with the model, the register with the model's state too. */
static void follows_model(const void *argument) {
    const struct sequence *sequence = argument;
    struct lfsr lfsr = lfsr_from_rgsr(sequence->rgsr);
    SYSREG_WRITE(rgsr_el1, sequence->rgsr);
    SYSREG_WRITE(gcr_el1, sequence->gcr);
    for (unsigned draw = 0; draw < DRAWS; draw++) {
        unsigned tag = lfsr_next_tag(&lfsr, sequence->exclude | sequence->gcr);
        expect_equal("IRG", pointer_with_tag(POINTER, tag), mte_irg(POINTER, sequence->exclude));
        expect_equal("RGSR_EL1", lfsr_to_rgsr(&lfsr), SYSREG_READ(rgsr_el1));
    }
}

static void random_respects_exclusion(const void *argument) {
    (void)argument;
    SYSREG_WRITE(gcr_el1, RRND | 0x00ff);
    for (unsigned draw = 0; draw < DRAWS; draw++) {
        unsigned tag = pointer_tag(mte_irg(POINTER, 0x3f00));
        expect_true("IRG with RRND draws tag 14 or 15", tag >= 14);
    }
}

static void random_all_excluded(const void *argument) {
    (void)argument;
    SYSREG_WRITE(gcr_el1, RRND | ALL_TAGS);
    expect_equal("IRG", pointer_with_tag(POINTER, 0), mte_irg(POINTER, 0));
}

static void mask_from_low_half(const void *argument) {
    (void)argument;
    u64 only_nine = ~(1UL << 9); /* bits above 15 do not count */
    expect_equal("IRG", pointer_with_tag(POINTER, 9), mte_irg(POINTER, only_nine));
    expect_equal("IRG", pointer_with_tag(POINTER, 9), mte_irg(POINTER, only_nine & ALL_TAGS));
}

static void zero_register_excludes_nothing(const void *argument) {
    (void)argument;
    u64 result;
    SYSREG_WRITE(gcr_el1, ALL_TAGS & ~(1UL << 4));
    __asm__ volatile("irg %0, %1" : "=r"(result) : "r"(POINTER));
    expect_equal("IRG", pointer_with_tag(POINTER, 4), result);
}

PROBE(irg_stack, "mov x2, sp\n\tmov sp, x0\n\tirg sp, sp, x1\n\tmov x0, sp\n\tmov sp, x2");

static void stack_pointer_operands(const void *argument) {
    (void)argument;
    u64 stack = (u64)scratch + SCRATCH_BYTES / 2;
    struct registers registers = {{stack, ALL_TAGS & ~(1UL << 11)}};
    probe_call(probe_irg_stack, &registers);
    expect_equal("IRG SP, SP", pointer_with_tag(stack, 11), registers.x[0]);
}

static void without_tag_access(const void *argument) {
    (void)argument;
    u64 rgsr = SYSREG_READ(rgsr_el1);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    expect_equal("IRG", pointer_with_tag(POINTER, 0), mte_irg(POINTER, 1));
    expect_equal("RGSR_EL1", rgsr, SYSREG_READ(rgsr_el1));
}

#define SEQUENCE(...) follows_model, &(const struct sequence){__VA_ARGS__}

static const struct check irg_checks[] = {
    {"sequence", SEQUENCE(0xace101, 0, 0)},
    {"sequence-other-seed", SEQUENCE(0x00010f, 0, 0)},
    {"sequence-seed-zero", SEQUENCE(0x000003, 0, 0)},
    {"sequence-seed-zero-excluded-start", SEQUENCE(0x000003, 0, 0x0078)},
    {"register-excludes-one", SEQUENCE(0xace101, 0, 0x0001)},
    {"register-excludes-odd", SEQUENCE(0xbeef00, 0, 0xaaaa)},
    {"register-leaves-one", SEQUENCE(0xbeef00, 0, 0xfeff)},
    {"register-excludes-all", SEQUENCE(0xbeef05, 0, 0xffff)},
    {"gcr-excludes-one", SEQUENCE(0xace101, 0x0001, 0)},
    {"gcr-excludes-even", SEQUENCE(0xbeef00, 0x5555, 0)},
    {"gcr-excludes-all", SEQUENCE(0xbeef05, 0xffff, 0)},
    {"gcr-and-register-exclude", SEQUENCE(0x12340c, 0x0f03, 0x30c0)},
    {"gcr-and-register-exclude-all", SEQUENCE(0x12340c, 0x00ff, 0xff00)},
    {"mask-from-low-half", mask_from_low_half, NULL},
    {"zero-register", zero_register_excludes_nothing, NULL},
    {"stack-pointer", stack_pointer_operands, NULL},
    {"rrnd-respects-exclusion", random_respects_exclusion, NULL},
    {"rrnd-excludes-all", random_all_excluded, NULL},
    {"ata-off", without_tag_access, NULL},
};

TOPIC(irg);
