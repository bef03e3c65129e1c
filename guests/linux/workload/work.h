/* What the program's parts share. */
#ifndef WORK_H
#define WORK_H

#include <stdint.h>

/* Each returns a checksum, which depends on `rounds` alone. */
uint64_t work_integer(uint64_t rounds);
uint64_t work_tags(uint64_t rounds);
uint64_t work_float(uint64_t rounds);

_Noreturn void fail(const char *what); /* says why by errno, and ends the program */

static inline uint64_t next_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

#endif
