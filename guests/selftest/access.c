/* Every kind of data access is tag checked: with the granule's tag it goes through, with
 * another it faults precisely: ESR, FAR, ELR right, no register and no byte changed. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6
#define WINDOW 128UL /* bytes around the base that are watched */

#define LOAD_SYNDROME FSC_TAG_CHECK
#define STORE_SYNDROME (FSC_TAG_CHECK | ESR_WNR)

/* What QEMU 10.0 does instead of what the manual says. */
enum deviation { NO_DEVIATION, SETS_WRITE_BIT, CHECKS_NOTHING };

struct access {
    const u8 *probe;
    u64 fault_at;     /* bytes from the probe's start to the access */
    int64_t offset;   /* of the access from the base */
    int64_t writeback;
    u64 syndrome;
    enum deviation deviation;
};

/* Tags of 128 bytes on both sides of the base; its data is zero, so that the results of
 * atomics and compare-and-swap do not matter. */
static u64 prepare(void) {
    u64 base = scratch_pointer(TAG);
    set_tags(base - WINDOW, 2 * WINDOW, TAG);
    return base;
}

/* x3 is the index of the register-offset forms. */
static struct registers operands(u64 base) {
    return (struct registers){{base, 0x1111, 0x2222, 4, 0x4444, 0x5555}};
}

static void matching_tag(const struct access *access) {
    u64 base = prepare();
    struct registers registers = operands(base);
    trap_arm(0);
    probe_call(access->probe, &registers);
    expect_no_trap();
    expect_equal("base", base + (u64)access->writeback, registers.x[0]);
}

static u64 expected_syndrome(const struct access *access, const struct frame *frame) {
    u64 esr = esr_make(EC_DATA_ABORT, access->syndrome);
    if (access->deviation != SETS_WRITE_BIT || (frame->esr & ESR_LOW_MASK) != (esr | ESR_WNR))
        return esr;
    pass_as_qemu();
    return esr | ESR_WNR;
}

static void expect_fault(const struct access *access, u64 base, const struct frame *frame) {
    expect_true("exception taken", frame != NULL);
    if (!frame)
        return;
    expect_equal("ESR_EL1", expected_syndrome(access, frame), frame->esr & ESR_LOW_MASK);
    expect_equal("FAR_EL1", base + (u64)access->offset, frame->far & FAR_KNOWN_MASK);
    expect_equal("ELR_EL1", (u64)access->probe + access->fault_at, frame->elr);
}

static void mismatching_tag(const struct access *access) {
    u64 base = pointer_with_tag(prepare(), WRONG_TAG);
    struct registers registers = operands(base);
    fill_pattern(base - WINDOW, 2 * WINDOW);
    trap_arm(0);
    probe_call(access->probe, &registers);
    const struct frame *frame = trap_taken();
    if (!frame && access->deviation == CHECKS_NOTHING) {
        pass_as_qemu();
        return;
    }
    expect_fault(access, base, frame);
    expect_pattern("memory", base - WINDOW, 2 * WINDOW);
    expect_equal("x0", base, registers.x[0]);
    expect_equal("x1", 0x1111, registers.x[1]);
    expect_equal("x2", 0x2222, registers.x[2]);
}

static void check_access(const void *argument) {
    matching_tag(argument);
    mismatching_tag(argument);
}

/* Columns: name, instruction, offset of the access, writeback. */
#define LOADS(X)                                                                              \
    X(ldrb, "ldrb w1, [x0]", 0, 0)                                                            \
    X(ldrh, "ldrh w1, [x0]", 0, 0)                                                            \
    X(ldr_w, "ldr w1, [x0]", 0, 0)                                                            \
    X(ldr_x, "ldr x1, [x0]", 0, 0)                                                            \
    X(ldrsb_w, "ldrsb w1, [x0]", 0, 0)                                                        \
    X(ldrsb_x, "ldrsb x1, [x0]", 0, 0)                                                        \
    X(ldrsh_w, "ldrsh w1, [x0]", 0, 0)                                                        \
    X(ldrsh_x, "ldrsh x1, [x0]", 0, 0)                                                        \
    X(ldrsw, "ldrsw x1, [x0]", 0, 0)                                                          \
    X(ldr_offset, "ldr x1, [x0, #40]", 40, 0)                                                 \
    X(ldrb_offset, "ldrb w1, [x0, #63]", 63, 0)                                               \
    X(ldur, "ldur x1, [x0, #-24]", -24, 0)                                                    \
    X(ldurb, "ldurb w1, [x0, #-1]", -1, 0)                                                    \
    X(ldursw, "ldursw x1, [x0, #-4]", -4, 0)                                                  \
    X(ldr_pre, "ldr x1, [x0, #16]!", 16, 16)                                                  \
    X(ldr_pre_down, "ldr w1, [x0, #-32]!", -32, -32)                                          \
    X(ldr_post, "ldr x1, [x0], #16", 0, 16)                                                   \
    X(ldrb_post, "ldrb w1, [x0], #1", 0, 1)                                                   \
    X(ldr_register, "ldr w1, [x0, x3]", 4, 0)                                                 \
    X(ldr_register_scaled, "ldr x1, [x0, x3, lsl #3]", 32, 0)                                 \
    X(ldr_register_sxtw, "ldr x1, [x0, w3, sxtw #3]", 32, 0)                                  \
    X(ldr_register_uxtw, "ldrh w1, [x0, w3, uxtw]", 4, 0)                                     \
    X(ldp_x, "ldp x1, x2, [x0]", 0, 0)                                                        \
    X(ldp_w, "ldp w1, w2, [x0, #8]", 8, 0)                                                    \
    X(ldpsw, "ldpsw x1, x2, [x0]", 0, 0)                                                      \
    X(ldp_pre, "ldp x1, x2, [x0, #-16]!", -16, -16)                                           \
    X(ldp_post, "ldp x1, x2, [x0], #32", 0, 32)                                               \
    X(ldnp, "ldnp x1, x2, [x0, #16]", 16, 0)                                                  \
    X(ldar_x, "ldar x1, [x0]", 0, 0)                                                          \
    X(ldar_w, "ldar w1, [x0]", 0, 0)                                                          \
    X(ldarb, "ldarb w1, [x0]", 0, 0)                                                          \
    X(ldarh, "ldarh w1, [x0]", 0, 0)                                                          \
    X(ldapr_x, "ldapr x1, [x0]", 0, 0)                                                        \
    X(ldapr_w, "ldapr w1, [x0]", 0, 0)                                                        \
    X(ldaprb, "ldaprb w1, [x0]", 0, 0)                                                        \
    X(ldaprh, "ldaprh w1, [x0]", 0, 0)                                                        \
    X(ldxr_x, "ldxr x1, [x0]", 0, 0)                                                          \
    X(ldxr_w, "ldxr w1, [x0]", 0, 0)                                                          \
    X(ldxrb, "ldxrb w1, [x0]", 0, 0)                                                          \
    X(ldxrh, "ldxrh w1, [x0]", 0, 0)                                                          \
    X(ldxp, "ldxp x1, x2, [x0]", 0, 0)                                                        \
    X(ldaxr, "ldaxr x1, [x0]", 0, 0)                                                          \
    X(ldaxp, "ldaxp w1, w2, [x0]", 0, 0)

#define STORES(X)                                                                             \
    X(strb, "strb w1, [x0]", 0, 0)                                                            \
    X(strh, "strh w1, [x0]", 0, 0)                                                            \
    X(str_w, "str w1, [x0]", 0, 0)                                                            \
    X(str_x, "str x1, [x0]", 0, 0)                                                            \
    X(str_zero, "str xzr, [x0]", 0, 0)                                                        \
    X(str_offset, "str x1, [x0, #40]", 40, 0)                                                 \
    X(stur, "stur x1, [x0, #-24]", -24, 0)                                                    \
    X(str_pre, "str x1, [x0, #16]!", 16, 16)                                                  \
    X(str_post, "str x1, [x0], #16", 0, 16)                                                   \
    X(str_register, "str w1, [x0, x3]", 4, 0)                                                 \
    X(str_register_scaled, "str x1, [x0, x3, lsl #3]", 32, 0)                                 \
    X(stp_x, "stp x1, x2, [x0]", 0, 0)                                                        \
    X(stp_w, "stp w1, w2, [x0, #8]", 8, 0)                                                    \
    X(stp_pre, "stp x1, x2, [x0, #-16]!", -16, -16)                                           \
    X(stp_post, "stp x1, x2, [x0], #32", 0, 32)                                               \
    X(stnp, "stnp x1, x2, [x0, #16]", 16, 0)                                                  \
    X(stlr_x, "stlr x1, [x0]", 0, 0)                                                          \
    X(stlr_w, "stlr w1, [x0]", 0, 0)                                                          \
    X(stlrb, "stlrb w1, [x0]", 0, 0)                                                          \
    X(stlrh, "stlrh w1, [x0]", 0, 0)

/* QEMU 10.0 does not check these two kinds. */
#define UNSCALED_ACQUIRES(X)                                                                  \
    X(ldapur, "ldapur x1, [x0, #-8]", -8, 0)                                                  \
    X(ldapurb, "ldapurb w1, [x0, #7]", 7, 0)                                                  \
    X(ldapursw, "ldapursw x1, [x0, #4]", 4, 0)

#define UNSCALED_RELEASES(X)                                                                  \
    X(stlur, "stlur x1, [x0, #-8]", -8, 0)                                                    \
    X(stlurh, "stlurh w1, [x0, #2]", 2, 0)

/* A read-modify-write faults as a read: with the same pointer a load would fault too (Arm
 * ARM, ISS encoding for a Data Abort, WnR). */
#define ATOMICS(X)                                                                            \
    X(swp_x, "swp x1, x2, [x0]", 0, 0)                                                        \
    X(swpal_w, "swpal w1, w2, [x0]", 0, 0)                                                    \
    X(swpb, "swpb w1, w2, [x0]", 0, 0)                                                        \
    X(swph, "swph w1, w2, [x0]", 0, 0)                                                        \
    X(ldadd_x, "ldadd x1, x2, [x0]", 0, 0)                                                    \
    X(ldaddal_w, "ldaddal w1, w2, [x0]", 0, 0)                                                \
    X(ldaddb, "ldaddb w1, w2, [x0]", 0, 0)                                                    \
    X(ldaddh, "ldaddh w1, w2, [x0]", 0, 0)                                                    \
    X(stadd, "stadd x1, [x0]", 0, 0)                                                          \
    X(ldclr, "ldclr x1, x2, [x0]", 0, 0)                                                      \
    X(ldeor, "ldeor x1, x2, [x0]", 0, 0)                                                      \
    X(ldset, "ldset x1, x2, [x0]", 0, 0)                                                      \
    X(ldsmax, "ldsmax x1, x2, [x0]", 0, 0)                                                    \
    X(ldsmin, "ldsmin x1, x2, [x0]", 0, 0)                                                    \
    X(ldumax, "ldumax x1, x2, [x0]", 0, 0)                                                    \
    X(ldumin, "ldumin x1, x2, [x0]", 0, 0)

/* The same rule holds here; QEMU 10.0 sets WnR. */
#define COMPARE_AND_SWAPS(X)                                                                  \
    X(cas_x, "cas x1, x2, [x0]", 0, 0)                                                        \
    X(casal_w, "casal w1, w2, [x0]", 0, 0)                                                    \
    X(casb, "casb w1, w2, [x0]", 0, 0)                                                        \
    X(cash, "cash w1, w2, [x0]", 0, 0)                                                        \
    X(casp, "casp x2, x3, x4, x5, [x0]", 0, 0)

/* Columns: name, load-exclusive, store-exclusive. The monitor is held when the store comes,
 * by an unchecked load through the same pointer: a store without it may fail unchecked. */
#define STORE_EXCLUSIVES(X)                                                                   \
    X(stxr_x, "ldxr x5, [x0]", "stxr w5, x1, [x0]")                                           \
    X(stxr_w, "ldxr w5, [x0]", "stxr w5, w1, [x0]")                                           \
    X(stxrb, "ldxrb w5, [x0]", "stxrb w5, w1, [x0]")                                          \
    X(stxrh, "ldxrh w5, [x0]", "stxrh w5, w1, [x0]")                                          \
    X(stlxr, "ldaxr x5, [x0]", "stlxr w5, x1, [x0]")                                          \
    X(stxp, "ldxp x5, x6, [x0]", "stxp w5, x1, x2, [x0]")

#define DEFINE(name, text, offset, writeback) PROBE(access_##name, text);
#define DEFINE_EXCLUSIVE(name, load, store)                                                    \
    PROBE(access_##name, "msr tco, #1\n\t" load "\n\tmsr tco, #0\n\t" store);
#define EXCLUSIVE_STORE_AT 12

LOADS(DEFINE)
UNSCALED_ACQUIRES(DEFINE)
STORES(DEFINE)
UNSCALED_RELEASES(DEFINE)
ATOMICS(DEFINE)
COMPARE_AND_SWAPS(DEFINE)
STORE_EXCLUSIVES(DEFINE_EXCLUSIVE)

#define CHECK(name, ...)                                                                      \
    {#name, check_access, &(const struct access){probe_access_##name, __VA_ARGS__}},
#define READ(name, text, offset, writeback)                                                   \
    CHECK(name, 0, offset, writeback, LOAD_SYNDROME, NO_DEVIATION)
#define WRITE(name, text, offset, writeback)                                                  \
    CHECK(name, 0, offset, writeback, STORE_SYNDROME, NO_DEVIATION)
#define ACQUIRE(name, text, offset, writeback)                                                \
    CHECK(name, 0, offset, writeback, LOAD_SYNDROME, CHECKS_NOTHING)
#define RELEASE(name, text, offset, writeback)                                                \
    CHECK(name, 0, offset, writeback, STORE_SYNDROME, CHECKS_NOTHING)
#define SWAP(name, text, offset, writeback)                                                   \
    CHECK(name, 0, offset, writeback, LOAD_SYNDROME, SETS_WRITE_BIT)
#define EXCLUSIVE(name, load, store)                                                          \
    CHECK(name, EXCLUSIVE_STORE_AT, 0, 0, STORE_SYNDROME, NO_DEVIATION)

static const struct check access_checks[] = {
    LOADS(READ) UNSCALED_ACQUIRES(ACQUIRE) STORES(WRITE) UNSCALED_RELEASES(RELEASE) ATOMICS(READ)
        COMPARE_AND_SWAPS(SWAP) STORE_EXCLUSIVES(EXCLUSIVE)};

TOPIC(access);
