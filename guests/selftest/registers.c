/* The registers of MTE: identification, storage, PSTATE.TCO. */
#include "selftest.h"

static void identification(const void *argument) {
    (void)argument;
    expect_true("ID_AA64PFR1_EL1.MTE is 2 or 3", mte_version() == 2 || mte_version() == 3);
}

static void granule_multiple_size(const void *argument) {
    (void)argument;
    u64 block = sysreg_field(SYSREG_READ(gmid_el1), 0, 4);
    expect_true("GMID_EL1.BS is 2 to 6", block >= 2 && block <= 6);
}

static void zero_block_size(const void *argument) {
    (void)argument;
    u64 dczid = SYSREG_READ(dczid_el0);
    expect_equal("DCZID_EL0.DZP", 0, sysreg_field(dczid, 4, 1));
    expect_true("DCZID_EL0.BS is 2 to 9", (dczid & 0xf) >= 2 && (dczid & 0xf) <= 9);
}

static void control_keeps_value(const void *argument) {
    (void)argument;
    SYSREG_WRITE(gcr_el1, 0xa5a5);
    expect_equal("GCR_EL1", 0xa5a5, SYSREG_READ(gcr_el1));
    SYSREG_WRITE(gcr_el1, 0x15a5a);
    expect_equal("GCR_EL1", 0x15a5a, SYSREG_READ(gcr_el1));
}

static void seed_keeps_value(const void *argument) {
    (void)argument;
    SYSREG_WRITE(rgsr_el1, 0xbeef07);
    expect_equal("RGSR_EL1", 0xbeef07, SYSREG_READ(rgsr_el1));
    SYSREG_WRITE(rgsr_el1, 0);
    expect_equal("RGSR_EL1", 0, SYSREG_READ(rgsr_el1));
}

static void fault_status_keeps_value(const void *argument) {
    (void)argument;
    for (u64 value = 0; value < 4; value++) {
        SYSREG_WRITE(tfsr_el1, value);
        SYSREG_WRITE(tfsre0_el1, 3 - value);
        expect_equal("TFSR_EL1", value, SYSREG_READ(tfsr_el1));
        expect_equal("TFSRE0_EL1", 3 - value, SYSREG_READ(tfsre0_el1));
    }
}

static void override_by_immediate(const void *argument) {
    (void)argument;
    TCO_SET();
    expect_equal("TCO", PSTATE_TCO, SYSREG_READ(tco));
    TCO_CLEAR();
    expect_equal("TCO", 0, SYSREG_READ(tco));
}

static void override_by_register(const void *argument) {
    (void)argument;
    SYSREG_WRITE(tco, ~0UL);
    expect_equal("TCO", PSTATE_TCO, SYSREG_READ(tco));
    SYSREG_WRITE(tco, ~PSTATE_TCO);
    expect_equal("TCO", 0, SYSREG_READ(tco));
}

static const struct frame *call_supervisor(void) {
    trap_arm(0);
    /* SVC's ELR is behind it already: the trap's "go on 4 bytes later" skips the nop. */
    __asm__ volatile("svc #0x123\n\tnop" : : : "memory");
    return trap_taken();
}

static void expect_override(const char *what, u64 before) {
    const struct frame *frame = call_supervisor();
    expect_true("SVC was taken", frame != NULL);
    if (!frame)
        return;
    expect_equal("ESR_EL1", esr_make(EC_SVC, 0x123), frame->esr & ESR_LOW_MASK);
    expect_equal("TCO in the handler", PSTATE_TCO, frame->tco);
    expect_equal(what, before, frame->spsr & PSTATE_TCO);
    expect_equal("TCO after ERET", before, SYSREG_READ(tco));
}

static void exception_sets_override(const void *argument) {
    (void)argument;
    expect_override("SPSR_EL1.TCO", 0);
}

static void exception_keeps_override(const void *argument) {
    (void)argument;
    TCO_SET();
    expect_override("SPSR_EL1.TCO", PSTATE_TCO);
}

static const struct check registers_checks[] = {
    {"identification", identification, NULL},
    {"gmid", granule_multiple_size, NULL},
    {"dczid", zero_block_size, NULL},
    {"gcr", control_keeps_value, NULL},
    {"rgsr", seed_keeps_value, NULL},
    {"tfsr", fault_status_keeps_value, NULL},
    {"tco-immediate", override_by_immediate, NULL},
    {"tco-register", override_by_register, NULL},
    {"tco-set-by-exception", exception_sets_override, NULL},
    {"tco-kept-by-exception", exception_keeps_override, NULL},
};

TOPIC(registers);
