/* Bitmaps of pages: page n in bit n % 64 of word n / 64. */
#ifndef TAGALONG_BESIDE_BITMAPS_H
#define TAGALONG_BESIDE_BITMAPS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64

static inline uint64_t words_of(uint64_t pages) {
    return (pages + WORD_BITS - 1) / WORD_BITS;
}

static inline bool has_bit(const uint64_t *bitmap, uint64_t bit) {
    return bitmap[bit / WORD_BITS] >> (bit % WORD_BITS) & 1;
}

static inline void set_bit(uint64_t *bitmap, uint64_t bit) {
    bitmap[bit / WORD_BITS] |= 1UL << (bit % WORD_BITS);
}

static inline void or_words(uint64_t *target, const uint64_t *source, uint64_t words) {
    for (uint64_t i = 0; i < words; i++)
        target[i] |= source[i];
}

/* malloc's, or NULL; every byte is `fill`. */
static inline uint64_t *new_bitmap(uint64_t pages, int fill) {
    uint64_t *bitmap = malloc(words_of(pages) * sizeof(*bitmap));
    if (bitmap)
        memset(bitmap, fill, words_of(pages) * sizeof(*bitmap));
    return bitmap;
}

#endif
