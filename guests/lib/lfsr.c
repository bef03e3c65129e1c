#include "lfsr.h"

#define ALL_TAGS 0xffff

struct lfsr lfsr_from_rgsr(u64 rgsr) {
    return (struct lfsr){.seed = (u16)(rgsr >> 8), .tag = rgsr & 0xf};
}

u64 lfsr_to_rgsr(const struct lfsr *lfsr) {
    return (u64)lfsr->seed << 8 | lfsr->tag;
}

static unsigned random_bit(struct lfsr *lfsr) {
    u16 seed = lfsr->seed;
    unsigned top = (seed >> 5 ^ seed >> 3 ^ seed >> 2 ^ seed) & 1;
    lfsr->seed = (u16)(top << 15 | seed >> 1);
    return top;
}

static unsigned next_allowed(unsigned tag, u64 exclude) {
    while (exclude >> tag & 1)
        tag = (tag + 1) & 0xf;
    return tag;
}

unsigned lfsr_choose_tag(unsigned start, unsigned steps, u64 exclude) {
    if ((exclude & ALL_TAGS) == ALL_TAGS)
        return 0;
    if (steps == 0)
        return next_allowed(start, exclude);
    while (steps--)
        start = next_allowed((start + 1) & 0xf, exclude);
    return start;
}

unsigned lfsr_next_tag(struct lfsr *lfsr, u64 exclude) {
    unsigned steps = 0;
    for (unsigned bit = 0; bit < 4; bit++)
        steps |= random_bit(lfsr) << bit;
    lfsr->tag = (u8)lfsr_choose_tag(lfsr->tag, steps, exclude);
    return lfsr->tag;
}
