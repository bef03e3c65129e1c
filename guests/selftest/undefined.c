/* Encodings that the architecture leaves unallocated are UNDEFINED, whatever they look like:
 * Arm ARM C4.1, "Data processing" and "Loads and stores". */
#include "selftest.h"

/* Columns: name, encoding. */
#define ENCODINGS(X)                                                                          \
    X(udf_zero, 0x00000000)                                                                   \
    X(udf_ffff, 0x0000ffff)                                                                   \
    /* op0 = 1 and 3, the holes in the top-level table */                                     \
    X(hole_1, 0x02000000)                                                                     \
    X(hole_3, 0x06000000)                                                                     \
    /* IRG, GMI, SUBP with sf = 0; IRG, GMI with S = 1 */                                     \
    X(irg_w, 0x1ac01000)                                                                      \
    X(gmi_w, 0x1ac01400)                                                                      \
    X(subp_w, 0x1ac00000)                                                                     \
    X(irgs, 0xbac01000)                                                                       \
    X(gmis, 0xbac01400)                                                                       \
    /* ADDG, SUBG with sf = 0 or S = 1 */                                                     \
    X(addg_w, 0x11800000)                                                                     \
    X(subg_w, 0x51800000)                                                                     \
    X(addgs, 0xb1800000)                                                                      \
    X(subgs, 0xf1800000)                                                                      \
    /* STZGM, STGM, LDGM with an offset */                                                    \
    X(stzgm_offset, 0xd9201000)                                                               \
    X(stgm_offset, 0xd9a01000)                                                                \
    X(ldgm_offset, 0xd9e01000)                                                                \
    /* a load pair with opc = 3 */                                                            \
    X(ldp_opc_3, 0xe9400000)                                                                  \
    X(stp_opc_3, 0xe9000000)

#define DEFINE(name, encoding) PROBE(undefined_##name, ".inst " #encoding);
ENCODINGS(DEFINE)

struct undefined_case {
    const u8 *probe;
};

static void undefined(const void *argument) {
    const struct undefined_case *undefined = argument;
    struct registers registers = {{(u64)scratch}};
    trap_arm(0);
    probe_call(undefined->probe, &registers);
    const struct frame *frame = trap_taken();
    expect_true("exception taken", frame != NULL);
    if (!frame)
        return;
    expect_equal("ESR_EL1", esr_make(EC_UNDEFINED, 0), frame->esr & ESR_LOW_MASK);
    expect_equal("ELR_EL1", (u64)undefined->probe, frame->elr);
    expect_equal("x0", (u64)scratch, registers.x[0]);
}

#define CHECK(name, encoding)                                                                 \
    {#name, undefined, &(const struct undefined_case){probe_undefined_##name}},

static const struct check undefined_checks[] = {ENCODINGS(CHECK)};

TOPIC(undefined);
