/* What IRG must draw when GCR_EL1.RRND is 0: the architecture's generator, in C.
 * Arm ARM, shared/functions/aarch64 RandomTag, RandomTagBit, ChooseNonExcludedTag. */
#ifndef LFSR_H
#define LFSR_H

#include "types.h"

/* RGSR_EL1's two fields. */
struct lfsr {
    u16 seed;
    u8 tag;
};

struct lfsr lfsr_from_rgsr(u64 rgsr);
u64 lfsr_to_rgsr(const struct lfsr *lfsr);

/* The tag reached from `start` after `steps` steps over tags that `exclude` allows. */
unsigned lfsr_choose_tag(unsigned start, unsigned steps, u64 exclude);

/* The tag of the next IRG; `exclude` is the register's mask and GCR_EL1's together. */
unsigned lfsr_next_tag(struct lfsr *lfsr, u64 exclude);

#endif
