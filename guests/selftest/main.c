/* selftest: every MTE instruction and mode, one line per check, then power off. */
#include <stdarg.h>

#include "console.h"
#include "psci.h"
#include "selftest.h"

#define REASON_BYTES 160

extern const struct topic registers_topic, irg_topic, arithmetic_topic, ldg_topic, tagstore_topic,
    bulk_topic, maintenance_topic, access_topic, crossing_topic, mode_topic, exemption_topic,
    stack_topic, page_topic, fault_topic, unprivileged_topic, el0_topic, undefined_topic,
    psci_topic;

static const struct topic *const topics[] = {
    &registers_topic, &irg_topic,       &arithmetic_topic,   &ldg_topic,   &tagstore_topic,
    &bulk_topic,      &maintenance_topic, &access_topic,     &crossing_topic, &mode_topic,
    &exemption_topic, &stack_topic,     &page_topic,         &fault_topic, &unprivileged_topic,
    &el0_topic,       &undefined_topic, &psci_topic,
};

enum verdict { PASSED, FAILED, SKIPPED };

static enum verdict verdict;
static bool as_qemu;
static char reason[REASON_BYTES];
static struct context runner;

const struct boot *machine;

__attribute__((format(printf, 2, 3))) static void decide(enum verdict value, const char *format,
                                                         ...) {
    va_list arguments;
    if (verdict != PASSED) /* only the first reason counts */
        return;
    verdict = value;
    va_start(arguments, format);
    format_text(reason, sizeof(reason), format, arguments);
    va_end(arguments);
}

void expect_equal(const char *what, u64 expected, u64 got) {
    if (expected != got)
        decide(FAILED, "%s: expected %#lx got %#lx", what, expected, got);
}

void expect_true(const char *what, bool holds) {
    expect_equal(what, true, holds);
}

void skip_check(const char *why) {
    decide(SKIPPED, "%s", why);
}

void pass_as_qemu(void) {
    as_qemu = true;
}

void expect_trap(u64 esr, u64 far, u64 elr) {
    const struct frame *frame = trap_taken();
    if (!frame) {
        decide(FAILED, "exception: expected esr %#lx got none", esr);
        return;
    }
    expect_equal("ESR_EL1", esr, frame->esr & ESR_LOW_MASK);
    expect_equal("FAR_EL1", far & FAR_KNOWN_MASK, frame->far & FAR_KNOWN_MASK);
    if (elr)
        expect_equal("ELR_EL1", elr, frame->elr);
}

void expect_no_trap(void) {
    const struct frame *frame = trap_taken();
    if (frame)
        decide(FAILED, "exception: expected none got esr %#lx far %#lx elr %#lx", frame->esr,
               frame->far, frame->elr);
}

/* On vCPU 0 the check is over and failed; any other vCPU just ends, and the check that
 * waits for it says so. */
void unexpected_exception(struct frame *frame) {
    decide(FAILED, "unexpected exception: expected none got esr %#lx far %#lx elr %#lx",
           frame->esr, frame->far, frame->elr);
    if (this_vcpu()->index != 0)
        psci_call(PSCI_CPU_OFF, 0, 0, 0);
    frame->x[0] = (u64)&runner;
    frame->x[1] = 1;
    frame->elr = (u64)context_restore;
    frame->spsr = PSTATE_EL1H_MASKED;
}

static void reset_machine(void) {
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT);
    SYSREG_WRITE(tcr_el1, TCR_DEFAULT);
    SYSREG_WRITE(gcr_el1, 0);
    SYSREG_WRITE(rgsr_el1, 0x123450);
    SYSREG_WRITE(tfsr_el1, 0);
    SYSREG_WRITE(tfsre0_el1, 0);
    TCO_CLEAR();
    unmap_all();
    this_vcpu()->trap.armed = false;
    set_tags((u64)scratch, SCRATCH_BYTES, 0);
    for (u64 offset = 0; offset < SCRATCH_BYTES; offset += sizeof(u64))
        poke((u64)scratch + offset, 0);
}

/* A line costs a VMM an exit for each character. */
enum shown { SHOW_ALL, SHOW_FAILED };
static const char *const shown_words[] = {[SHOW_ALL] = "all", [SHOW_FAILED] = "failed", NULL};
static u64 shown = SHOW_ALL;

static void print_verdict(const struct topic *topic, const struct check *check) {
    static const char *const words[] = {[PASSED] = "ok", [FAILED] = "FAIL", [SKIPPED] = "skip"};
    const char *note = as_qemu ? " (as QEMU 10.0, not as the manual)" : "";
    if (verdict == PASSED && shown == SHOW_FAILED)
        return;
    if (verdict == PASSED)
        console_line("selftest: ok %s.%s%s", topic->name, check->name, note);
    else
        console_line("selftest: %s %s.%s: %s", words[verdict], topic->name, check->name, reason);
}

static enum verdict run_check(const struct topic *topic, const struct check *check) {
    verdict = PASSED;
    as_qemu = false;
    reset_machine();
    if (context_save(&runner) == 0)
        check->run(check->argument);
    print_verdict(topic, check);
    return verdict;
}

void main(const struct boot *boot) {
    u64 counts[] = {[PASSED] = 0, [FAILED] = 0, [SKIPPED] = 0};
    machine = boot;
    if (mte_version() < 2) {
        console_line("selftest: FAIL machine: ID_AA64PFR1_EL1.MTE: expected 2 or more got %u",
                     mte_version());
        guest_end(GUEST_FAILED);
    }
    const struct knob knobs[] = {{"show", &shown, 0, 0, shown_words}};
    knobs_read("selftest", boot->command_line, knobs, COUNT(knobs));
    for (size_t i = 0; i < COUNT(topics); i++)
        for (size_t j = 0; j < topics[i]->count; j++)
            counts[run_check(topics[i], &topics[i]->checks[j])]++;
    console_line("selftest: %lu checks, %lu failed", counts[PASSED] + counts[FAILED],
                 counts[FAILED]);
    guest_end(counts[FAILED] ? GUEST_FAILED : GUEST_DONE);
}
