/* SP as the base: [SP] and [SP, #imm] are not checked, every other form is. */
#include "selftest.h"

#define TAG 5
#define WRONG_TAG 6

#define UNCHECKED(X)                                                                          \
    X(ldr, "ldr x1, [sp]")                                                                    \
    X(ldr_offset, "ldr x1, [sp, #16]")                                                        \
    X(ldrb_offset, "ldrb w1, [sp, #1]")                                                       \
    X(ldrsw_offset, "ldrsw x1, [sp, #4]")                                                     \
    X(ldur, "ldur x1, [sp, #-8]")                                                             \
    X(ldp, "ldp x1, x2, [sp, #16]")                                                           \
    X(ldpsw, "ldpsw x1, x2, [sp]")                                                            \
    X(ldnp, "ldnp x1, x2, [sp, #-16]")                                                        \
    X(ldar, "ldar x1, [sp]")                                                                  \
    X(ldapr, "ldapr x1, [sp]")                                                                \
    X(ldapur, "ldapur x1, [sp, #8]")                                                          \
    X(ldxr, "ldxr x1, [sp]")                                                                  \
    X(ldaxp, "ldaxp x1, x2, [sp]")                                                            \
    X(str, "str x1, [sp]")                                                                    \
    X(str_offset, "str x1, [sp, #16]")                                                        \
    X(strb_offset, "strb w1, [sp, #1]")                                                       \
    X(stur, "stur x1, [sp, #-8]")                                                             \
    X(stp, "stp x1, x2, [sp, #16]")                                                           \
    X(stnp, "stnp x1, x2, [sp, #-16]")                                                        \
    X(stlr, "stlr x1, [sp]")                                                                  \
    X(stlur, "stlur x1, [sp, #8]")                                                            \
    X(swp, "swp x1, x2, [sp]")                                                                \
    X(ldadd, "ldadd x1, x2, [sp]")                                                            \
    X(cas, "cas x1, x2, [sp]")                                                                \
    X(exclusive, "ldxr x1, [sp]\n\tstxr w2, x1, [sp]")

/* Columns: name, instruction, offset of the access, syndrome. */
#define READ FSC_TAG_CHECK
#define WRITE (FSC_TAG_CHECK | ESR_WNR)
#define CHECKED(X)                                                                            \
    X(ldr_register, "ldr x1, [sp, x3]", 16, READ)                                             \
    X(ldr_register_zero, "ldr x1, [sp, xzr]", 0, READ)                                        \
    X(ldr_register_uxtw, "ldr w1, [sp, w3, uxtw #2]", 64, READ)                               \
    X(ldr_pre, "ldr x1, [sp, #16]!", 16, READ)                                                \
    X(ldr_pre_zero, "ldr x1, [sp, #0]!", 0, READ)                                             \
    X(ldr_post, "ldr x1, [sp], #16", 0, READ)                                                 \
    X(ldp_pre, "ldp x1, x2, [sp, #16]!", 16, READ)                                            \
    X(ldp_post, "ldp x1, x2, [sp], #16", 0, READ)                                             \
    X(str_register, "str x1, [sp, x3]", 16, WRITE)                                            \
    X(str_pre, "str x1, [sp, #-16]!", -16, WRITE)                                             \
    X(str_post, "str x1, [sp], #16", 0, WRITE)                                                \
    X(stp_pre, "stp x1, x2, [sp, #-16]!", -16, WRITE)                                         \
    X(stp_post, "stp x1, x2, [sp], #32", 0, WRITE)                                            \
    X(strb_post, "strb w1, [sp], #16", 0, WRITE)

struct stack_case {
    const u8 *probe;
    int64_t offset;
    u64 syndrome;
};

static u64 prepare(void) {
    u64 stack = scratch_pointer(WRONG_TAG);
    set_tags(stack - 128, 256, TAG);
    return stack;
}

static void unchecked(const void *argument) {
    const struct stack_case *access = argument;
    u64 stack = prepare();
    expect_equal("sp", stack, probe_runs(access->probe, stack));
}

static void checked(const void *argument) {
    const struct stack_case *access = argument;
    u64 stack = prepare();
    struct registers registers = {{stack, 0x1111, 0x2222, 16}};
    fill_pattern(stack - 128, 256);
    trap_arm(0);
    probe_call(access->probe, &registers);
    expect_trap(esr_make(EC_DATA_ABORT, access->syndrome), stack + (u64)access->offset,
                (u64)access->probe + STACK_PROBE_AT);
    expect_pattern("memory", stack - 128, 256);
    expect_equal("sp", stack, registers.x[0]);
    expect_equal("x1", 0x1111, registers.x[1]);
}

PROBE(el1h_stack, "mov x2, sp\n\tmov sp, x0\n\tldr x1, [sp]\n\tmov sp, x2");

/* With SP_EL1 too. Nothing may fault here: the handler would work on this very stack. */
static void selected_stack(const void *argument) {
    (void)argument;
    struct registers registers = {{prepare()}};
    poke(registers.x[0], 0x1234);
    probe_call(probe_el1h_stack, &registers);
    expect_equal("value loaded", 0x1234, registers.x[1]);
}

#define DEFINE_UNCHECKED(name, text) STACK_PROBE(stack_##name, text);
#define DEFINE_CHECKED(name, text, offset, syndrome) STACK_PROBE(stack_##name, text);

UNCHECKED(DEFINE_UNCHECKED)
CHECKED(DEFINE_CHECKED)

#define CHECK(name, function, ...)                                                            \
    {#name, function, &(const struct stack_case){probe_stack_##name, __VA_ARGS__}},
#define RUNS(name, text) CHECK(name, unchecked, 0, 0)
#define TRAPS(name, text, offset, syndrome) CHECK(name, checked, offset, syndrome)

static const struct check stack_checks[] = {
    UNCHECKED(RUNS) CHECKED(TRAPS){"exempt-at-el1h", selected_stack, NULL},
};

TOPIC(stack);
