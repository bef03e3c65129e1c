/* speed: how fast a machine executes tagged accesses. The host takes the time. */
#include "boot.h"
#include "console.h"
#include "mte.h"
#include "vcpu.h"

#define BUFFER_BYTES 4096
#define BUFFER_TAG 5

extern u64 loop_loads_stores(u64 pointer, u64 iterations);
extern u64 loop_tag_stores(u64 pointer, u64 iterations);

static u8 buffer[BUFFER_BYTES] __attribute__((aligned(BUFFER_BYTES)));

enum mode { MODE_LOADS_STORES, MODE_STG };
static const char *const mode_words[] = {"ldst", "stg", NULL};

void unexpected_exception(struct frame *frame) {
    console_line("speed: FAIL unexpected exception esr=%#lx far=%#lx elr=%#lx", frame->esr,
                 frame->far, frame->elr);
    guest_end(GUEST_FAILED);
}

static u64 tag_buffer(void) {
    u64 pointer = pointer_with_tag((u64)buffer, BUFFER_TAG);
    for (u64 offset = 0; offset < BUFFER_BYTES; offset += GRANULE_BYTES)
        mte_stg(pointer, pointer + offset);
    return pointer;
}

void main(const struct boot *boot) {
    u64 iterations = 10000000, mode = MODE_LOADS_STORES;
    const struct knob knobs[] = {
        {"iterations", &iterations, 1, 1UL << 40, NULL},
        {"mode", &mode, 0, 0, mode_words},
    };
    knobs_read("speed", boot->command_line, knobs, COUNT(knobs));
    u64 pointer = tag_buffer();
    u64 instructions = mode == MODE_STG ? loop_tag_stores(pointer, iterations)
                                        : loop_loads_stores(pointer, iterations);
    console_line("speed: iterations=%lu instructions=%lu", iterations, instructions);
}
