/* Packed tags by words of 64 bits. Both hosts (x86-64, arm64) are little-endian: the lowest nibble of
 * a word is the granule at the lowest address. */
#ifndef TAGALONG_TAG_WORDS_H
#define TAGALONG_TAG_WORDS_H

#include <stdint.h>
#include <string.h>

enum { TAG_BITS = 4, TAG_MASK = 15, TAGS_PER_WORD = 16 };

#define EACH_TAG UINT64_C(0x1111111111111111)

/* Planes may start at any address, so words are loaded through memcpy. */
static inline uint64_t load_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The lowest bit of each tag that differs from the tag below it; `before` is the tag below the
 * word's lowest one. */
static inline uint64_t tag_edges(uint64_t word, uint64_t before)
{
    uint64_t changed = word ^ (word << TAG_BITS | before);
    changed |= changed >> 2;
    changed |= changed >> 1;
    return changed & EACH_TAG;
}

#endif
