/* speed: how fast a machine executes tagged accesses, or floating point. The host takes the time. */
#include "boot.h"
#include "console.h"
#include "mte.h"
#include "vcpu.h"

#define BUFFER_BYTES 4096
#define BUFFER_TAG 5

extern u64 loop_loads_stores(u64 pointer, u64 iterations);
extern u64 loop_tag_stores(u64 pointer, u64 iterations);
extern u64 loop_floats(u64 pointer, u64 iterations);

static u8 buffer[BUFFER_BYTES] __attribute__((aligned(BUFFER_BYTES)));

enum mode { MODE_LOADS_STORES, MODE_STG, MODE_FP };
static const char *const mode_words[] = {"ldst", "stg", "fp", NULL};

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

static void enable_floats(void) {
    const u64 cpacr_fpen = 3UL << 20;
    __asm__ volatile("msr cpacr_el1, %0\n\tisb" : : "r"(cpacr_fpen));
}

static u64 run(u64 mode, u64 pointer, u64 iterations) {
    switch (mode) {
    case MODE_STG:
        return loop_tag_stores(pointer, iterations);
    case MODE_FP:
        enable_floats();
        return loop_floats(pointer, iterations);
    default:
        return loop_loads_stores(pointer, iterations);
    }
}

void main(const struct boot *boot) {
    u64 iterations = 10000000, mode = MODE_LOADS_STORES;
    const struct knob knobs[] = {
        {"iterations", &iterations, 1, 1UL << 40, NULL},
        {"mode", &mode, 0, 0, mode_words},
    };
    knobs_read("speed", boot->command_line, knobs, COUNT(knobs));
    u64 pointer = tag_buffer();
    u64 instructions = run(mode, pointer, iterations);
    console_line("speed: iterations=%lu instructions=%lu", iterations, instructions);
}
