/* Code at EL0: its own mode and status register, what it may and may not do. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6
#define TF0 1UL
#define CODE_PAGE (MAP_BASE + 64 * PAGE_BYTES)
#define DATA_PAGE 1
#define SVC_NUMBER 7

/* EL0 code is position independent and runs from an alias of its page. */
#define EL0_PROBE(name, text)                                                                 \
    extern const u8 el0_##name[];                                                             \
    __asm__(".pushsection .text.el0, \"ax\"\n\t.arch armv8.5-a+memtag\n\t.balign 4\n"         \
            "el0_" #name ":\n\t" text "\n\tsvc #7\n\t.popsection")

__asm__(".pushsection .text.el0, \"ax\"\n\t.balign 4096\n\t.global el0_code\nel0_code:\n\t"
        ".popsection");
extern const u8 el0_code[];

EL0_PROBE(nothing, "nop");
EL0_PROBE(load, "ldr x0, [x0]");
EL0_PROBE(store, "str x1, [x0]");
EL0_PROBE(load_with_override, "msr tco, #1\n\tldr x0, [x0]");
EL0_PROBE(load_stack, "ldr x0, [sp, #16]");
EL0_PROBE(load_stack_index, "ldr x0, [sp, x1]");
EL0_PROBE(tag_and_load, "irg x2, x0, x1\n\tstg x2, [x0]\n\tldg x0, [x2]\n\tldr x2, [x2]");
EL0_PROBE(ldg, "ldg x0, [x0]");
EL0_PROBE(irg, "irg x0, x0");
EL0_PROBE(dc_gva, "dc gva, x0");
EL0_PROBE(ldgm, "ldgm x1, [x0]");
EL0_PROBE(stgm, "stgm x1, [x0]");
EL0_PROBE(stzgm, "stzgm x1, [x0]");
EL0_PROBE(mrs_gcr, "mrs x0, gcr_el1");
EL0_PROBE(msr_rgsr, "msr rgsr_el1, x0");
EL0_PROBE(mrs_tfsre0, "mrs x0, tfsre0_el1");

static u64 data_page(u64 attributes) {
    set_tags((u64)scratch, 2 * PAGE_BYTES, TAG);
    return pointer_with_tag(map_scratch_page(DATA_PAGE, attributes) + 512, WRONG_TAG);
}

static void set_mode(enum tag_check_mode mode, u64 extra) {
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT | (u64)mode << SCTLR_TCF0_SHIFT | extra);
}

/* Runs it with SP = x0 and returns how it ended. */
static const struct frame *run(const u8 *code, u64 x0, u64 x1) {
    map_page(CODE_PAGE, (u64)el0_code, MAP_EL0_CODE);
    el0_run(CODE_PAGE + (u64)(code - el0_code), x0, x1, x0);
    const struct frame *frame = trap_taken();
    expect_true("exception taken", frame != NULL);
    if (frame) {
        expect_equal("vector", VECTOR_EL0_SYNC, frame->vector);
        expect_equal("TCO in the handler", PSTATE_TCO, frame->tco);
        expect_equal("SPSR_EL1.M", 0, frame->spsr & 0x1f);
    }
    return frame;
}

/* It came to its SVC; returns its x0. */
static u64 runs(const u8 *code, u64 x0, u64 x1) {
    const struct frame *frame = run(code, x0, x1);
    if (!frame)
        return 0;
    expect_equal("ESR_EL1", esr_make(EC_SVC, SVC_NUMBER), frame->esr & ESR_LOW_MASK);
    return frame->x[0];
}

/* Its first instruction took this exception. */
static void traps(const u8 *code, u64 x0, u64 esr) {
    const struct frame *frame = run(code, x0, 0);
    if (!frame)
        return;
    expect_equal("ESR_EL1", esr, frame->esr & ESR_LOW_MASK);
    expect_equal("ELR_EL1", CODE_PAGE + (u64)(code - el0_code), frame->elr);
    if (ESR_CLASS(esr) == EC_DATA_ABORT_EL0)
        expect_equal("FAR_EL1", x0 & FAR_KNOWN_MASK, frame->far & FAR_KNOWN_MASK);
}

static void expect_status(u64 expected) {
    barrier_all();
    expect_equal("TFSRE0_EL1", expected, SYSREG_READ(tfsre0_el1));
    expect_equal("TFSR_EL1", 0, SYSREG_READ(tfsr_el1));
}

static void call(const void *argument) {
    (void)argument;
    expect_equal("x0", 0x77, runs(el0_nothing, 0x77, 0));
}

static void sync(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    traps(el0_load, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_TAG_CHECK));
    traps(el0_store, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_TAG_CHECK | ESR_WNR));
    runs(el0_load, pointer_with_tag(pointer, TAG), 0);
    expect_status(0);
}

static void none(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_NONE, SCTLR_ATA0);
    runs(el0_load, pointer, 0);
    expect_status(0);
}

static void async(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_ASYNC, SCTLR_ATA0);
    runs(el0_store, pointer, 0x1234);
    expect_status(TF0);
    expect_equal("value stored", 0x1234, peek(pointer));
}

static void asymmetric(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    if (mte_version() < 3) {
        skip_check("no asymmetric checking (ID_AA64PFR1_EL1.MTE is 2)");
        return;
    }
    set_mode(TCF_ASYMMETRIC, SCTLR_ATA0);
    traps(el0_load, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_TAG_CHECK));
    expect_status(0);
    runs(el0_store, pointer, 0x1234);
    expect_status(TF0);
}

static void override(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    runs(el0_load_with_override, pointer, 0);
    const struct frame *frame = &this_vcpu()->trap.frame;
    expect_equal("SPSR_EL1.TCO", PSTATE_TCO, frame->spsr & PSTATE_TCO);
}

static void tag_access_off(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, 0);
    runs(el0_load, pointer, 0);
    expect_equal("LDG", pointer_untagged(pointer), runs(el0_ldg, pointer, 0));
    expect_equal("IRG", pointer_untagged(pointer), runs(el0_irg, pointer, 0));
    runs(el0_tag_and_load, pointer, 0);
    expect_tags("tag", pointer, GRANULE_BYTES, TAG);
}

static void tagging(const void *argument) {
    (void)argument;
    u64 pointer = pointer_untagged(data_page(MAP_EL0_DATA));
    set_mode(TCF_SYNC, SCTLR_ATA0);
    u64 only_eleven = 0xffff & ~(1UL << 11);
    expect_equal("LDG", pointer_with_tag(pointer, 11),
                 runs(el0_tag_and_load, pointer, only_eleven));
    expect_tags("tag", (u64)scratch + PAGE_BYTES + 512, GRANULE_BYTES, 11);
}

static void stack(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    runs(el0_load_stack, pointer, 0);
    traps(el0_load_stack_index, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_TAG_CHECK));
}

/* EL1's checking mode is not EL0's. */
static void kernel_mode_is_apart(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    mte_set_mode(TCF_NONE);
    probe_runs(probe_load, pointer);
    traps(el0_load, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_TAG_CHECK));
}

static void permission(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_TAGGED);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    traps(el0_load, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_PERMISSION(3)));
    traps(el0_ldg, pointer, esr_make(EC_DATA_ABORT_EL0, FSC_PERMISSION(3)));
}

static void block_tagging(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, SCTLR_ATA0 | SCTLR_DZE);
    runs(el0_dc_gva, pointer, 0);
    expect_tags("tag", pointer, GRANULE_BYTES, WRONG_TAG);
}

/* SCTLR_EL1.DZE clear: trapped as a system instruction. */
static void block_tagging_trapped(const void *argument) {
    (void)argument;
    u64 pointer = data_page(MAP_EL0_DATA);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    const struct frame *frame = run(el0_dc_gva, pointer, 0);
    if (frame)
        expect_equal("exception class", EC_SYSREG, ESR_CLASS(frame->esr));
    expect_tags("tag", pointer, GRANULE_BYTES, TAG);
}

struct undefined_case {
    const u8 *code;
};

static void undefined(const void *argument) {
    const struct undefined_case *undefined = argument;
    u64 pointer = pointer_with_tag(data_page(MAP_EL0_DATA), TAG);
    set_mode(TCF_SYNC, SCTLR_ATA0);
    traps(undefined->code, pointer, esr_make(EC_UNDEFINED, 0));
    expect_tags("tag", pointer, GRANULE_BYTES, TAG);
}

#define UNDEFINED(name) undefined, &(const struct undefined_case){el0_##name}

static const struct check el0_checks[] = {
    {"svc", call, NULL},
    {"sync", sync, NULL},
    {"none", none, NULL},
    {"async", async, NULL},
    {"asymmetric", asymmetric, NULL},
    {"tco", override, NULL},
    {"ata0-off", tag_access_off, NULL},
    {"irg-stg-ldg", tagging, NULL},
    {"stack-pointer", stack, NULL},
    {"el1-mode-is-apart", kernel_mode_is_apart, NULL},
    {"permission", permission, NULL},
    {"dc-gva", block_tagging, NULL},
    {"dc-gva-trapped", block_tagging_trapped, NULL},
    {"ldgm-undefined", UNDEFINED(ldgm)},
    {"stgm-undefined", UNDEFINED(stgm)},
    {"stzgm-undefined", UNDEFINED(stzgm)},
    {"gcr-undefined", UNDEFINED(mrs_gcr)},
    {"rgsr-undefined", UNDEFINED(msr_rgsr)},
    {"tfsre0-undefined", UNDEFINED(mrs_tfsre0)},
};

TOPIC(el0);
