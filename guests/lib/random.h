/* splitmix64: small, seedable, and every seed (0 too) is a good one. */
#ifndef RANDOM_H
#define RANDOM_H

#include "types.h"

static inline u64 random_mix(u64 value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

static inline u64 random_next(u64 *state) {
    *state += 0x9e3779b97f4a7c15;
    return random_mix(*state);
}

/* 0 to limit - 1; `limit` is far below 2^32, so the bias does not matter here. */
static inline u64 random_below(u64 *state, u64 limit) {
    return (random_next(state) >> 32) * limit >> 32;
}

#endif
