/* retag: changes the tags of a few granules as fast as it can, and their data with them.
 *
 * In round n every granule gets tag n % 15 + 1 and twice the 64-bit word n, so that a reader can
 * tell from which round a tag is and from which the data are. No granule has tag 0 after the first
 * round. */
#include "boot.h"
#include "console.h"
#include "mte.h"
#include "vcpu.h"

#define MAX_GRANULES 65536
#define LARGEST_PAGE_BYTES 65536 /* of any host: readers of tags work by pages */

extern _Noreturn void retag_store(u64 address, u64 granules);
extern _Noreturn void retag_pair(u64 address, u64 granules);

static u8 buffer[MAX_GRANULES * GRANULE_BYTES] __attribute__((aligned(LARGEST_PAGE_BYTES)));

enum mode { MODE_STORE, MODE_PAIR };
static const char *const mode_words[] = {"store", "pair", NULL};

void unexpected_exception(struct frame *frame) {
    console_line("retag: FAIL unexpected exception esr=%#lx far=%#lx elr=%#lx", frame->esr,
                 frame->far, frame->elr);
    guest_end(GUEST_FAILED);
}

void main(const struct boot *boot) {
    u64 granules = 256, mode = MODE_STORE;
    const struct knob knobs[] = {
        {"granules", &granules, 1, MAX_GRANULES, NULL},
        {"mode", &mode, 0, 0, mode_words},
    };
    knobs_read("retag", boot->command_line, knobs, COUNT(knobs));
    console_line("retag: buffer=%#lx granules=%lu", (u64)buffer, granules);
    if (mode == MODE_PAIR)
        retag_pair((u64)buffer, granules);
    retag_store((u64)buffer, granules);
}
