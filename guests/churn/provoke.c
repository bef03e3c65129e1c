/* Wrong accesses on purpose. Each must fault, at its address, and change nothing. */
#include "churn.h"
#include "random.h"
#include "vcpu.h"

/* One free in so many is followed by a use after free. */
#define USE_AFTER_FREE_INTERVAL 4

extern u64 faulting_load(u64 pointer);
extern void faulting_store(u64 pointer, u64 value);

static u64 unchecked_load(u64 pointer) {
    u64 value;
    TCO_SET();
    value = *(volatile u64 *)pointer;
    TCO_CLEAR();
    return value;
}

static void require_fault(struct share *share, u64 pointer, u64 esr, u64 instruction) {
    const struct frame *frame = trap_taken();
    if (!frame)
        fail(share, "fault that must come", pointer, esr, 0);
    require(share, "ESR_EL1 of a provoked fault", pointer, esr, frame->esr & ESR_LOW_MASK);
    require(share, "FAR_EL1 of a provoked fault", pointer, pointer & FAR_KNOWN_MASK,
            frame->far & FAR_KNOWN_MASK);
    require(share, "ELR_EL1 of a provoked fault", pointer, instruction, frame->elr);
    share->faults++;
}

static void provoke_load(struct share *share, u64 pointer) {
    trap_arm(0);
    faulting_load(pointer);
    require_fault(share, pointer, ESR_TAG_CHECK_READ, (u64)faulting_load);
}

static void provoke_store(struct share *share, u64 pointer) {
    u64 before = unchecked_load(pointer);
    trap_arm(0);
    faulting_store(pointer, ~before);
    require_fault(share, pointer, ESR_TAG_CHECK_WRITE, (u64)faulting_store);
    require(share, "data behind a refused store", pointer, before, unchecked_load(pointer));
}

/* A word of the block, through a pointer with another tag. */
static u64 wrong_tag(struct share *share, const struct segment *segment) {
    unsigned tag = draw_tag(share, segment->start, 1UL << segment->tag);
    u64 word = random_below(&share->random, segment->granules * 2);
    return pointer_with_tag(segment->start, tag) + word * sizeof(u64);
}

static bool has_neighbours(const struct segment *segment) {
    return segment->previous != NO_SEGMENT && segment->next != NO_SEGMENT;
}

void provoke_near(struct share *share, u32 index) {
    struct segment segment = segment_get(share, index);
    u64 kind = share->provocation++ % 4;
    if (kind >= 2 && !has_neighbours(&segment))
        kind -= 2;
    switch (kind) {
    case 0:
        provoke_load(share, wrong_tag(share, &segment));
        break;
    case 1:
        provoke_store(share, wrong_tag(share, &segment));
        break;
    case 2: /* overflow */
        provoke_load(share, segment_pointer(&segment) + segment_bytes(&segment));
        break;
    default: /* underflow */
        provoke_store(share, segment_pointer(&segment) - sizeof(u64));
    }
}

void provoke_use_after_free(struct share *share, u64 stale_pointer, u64 granules) {
    if (random_below(&share->random, USE_AFTER_FREE_INTERVAL) != 0)
        return;
    u64 pointer = stale_pointer + random_below(&share->random, granules) * GRANULE_BYTES;
    provoke_load(share, pointer);
    provoke_store(share, pointer);
}
