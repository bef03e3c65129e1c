/* What churn says. */
#include "boot.h"
#include "churn.h"
#include "console.h"
#include "vcpu.h"

_Noreturn void fail(const struct share *share, const char *what, u64 address, u64 expected,
                    u64 got) {
    console_line("churn: FAIL vcpu=%lu ops=%lu %s at %#lx: expected %#lx got %#lx", share->vcpu,
                 share->operations, what, address, expected, got);
    guest_end(GUEST_FAILED);
}

void report_progress(const struct share *share) {
    console_line("churn: progress vcpu=%lu ops=%lu blocks=%lu retags=%lu faults=%lu",
                 share->vcpu, share->operations, share->blocks, share->retags, share->faults);
}

static bool is_tag_check(u64 esr) {
    return ESR_CLASS(esr) == EC_DATA_ABORT && ESR_FAULT_STATUS(esr) == FSC_TAG_CHECK;
}

/* No deliberate access: lost tags show here first. */
void unexpected_exception(struct frame *frame) {
    u64 vcpu = this_vcpu()->index;
    if (is_tag_check(frame->esr))
        console_line("churn: FAIL vcpu=%lu tag check fault at %#lx elr=%#lx: expected tag %u "
                     "got %u",
                     vcpu, frame->far, frame->elr, pointer_tag(frame->far),
                     granule_tag(frame->far));
    else
        console_line("churn: FAIL vcpu=%lu exception esr=%#lx at %#lx elr=%#lx: expected none "
                     "got vector %lu",
                     vcpu, frame->esr, frame->far, frame->elr, frame->vector);
    guest_end(GUEST_FAILED);
}
