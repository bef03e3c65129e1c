/* Bulk kernels over packed tags. Plain loops over bytes and 64-bit words: the compiler turns
 * them into vector code for every target. */
#include "tag_words.h"
#include "tagalong.h"

#include <string.h>

enum { TAGS_PER_BYTE = 2, BLOCK_WORDS = 8, PREFETCH_PAGES = 32 };

void ta_tags_pack(const uint8_t *restrict tags, uint8_t *restrict packed, size_t granules)
{
    for (size_t i = 0; i < granules / TAGS_PER_BYTE; i++) {
        uint16_t pair;
        memcpy(&pair, tags + TAGS_PER_BYTE * i, sizeof pair);
        packed[i] = (uint8_t)(pair | pair >> TAG_BITS);
    }
}

void ta_tags_unpack(const uint8_t *restrict packed, uint8_t *restrict tags, size_t granules)
{
    for (size_t i = 0; i < granules / TAGS_PER_BYTE; i++) {
        uint16_t pair = (uint16_t)((packed[i] | packed[i] << TAG_BITS) & 0x0f0f);
        memcpy(tags + TAGS_PER_BYTE * i, &pair, sizeof pair);
    }
}

struct run_list {
    struct ta_tag_run *runs;
    size_t max_runs;
    size_t count; /* runs found, also those for which there was no room */
};

static void add_run(struct run_list *list, uint64_t start, uint64_t stop, uint32_t tag)
{
    while (start < stop) {
        uint64_t length = stop - start < UINT32_MAX ? stop - start : UINT32_MAX;
        if (list->count < list->max_runs)
            list->runs[list->count] = (struct ta_tag_run){start, (uint32_t)length, tag};
        list->count++;
        start += length;
    }
}

/* The up to 16 tags from byte `bytes` on; what lies beyond `granules` reads as zero. */
static uint64_t load_tags(const uint8_t *bytes, size_t granules)
{
    if (granules >= TAGS_PER_WORD)
        return load_word(bytes);
    uint64_t word = 0;
    memcpy(&word, bytes, (granules + 1) / TAGS_PER_BYTE);
    return word;
}

size_t ta_tags_runs(const uint8_t *packed, size_t granules, struct ta_tag_run *runs,
                    size_t max_runs)
{
    struct run_list list = {runs, max_runs, 0};
    if (granules == 0)
        return 0;
    uint64_t start = 0;
    uint32_t tag = packed[0] & TAG_MASK;
    for (size_t base = 0; base < granules; base += TAGS_PER_WORD) {
        size_t left = granules - base;
        uint64_t word = load_tags(packed + base / TAGS_PER_BYTE, left);
        uint64_t edges = tag_edges(word, tag);
        if (left < TAGS_PER_WORD)
            edges &= (UINT64_C(1) << left * TAG_BITS) - 1;
        for (; edges != 0; edges &= edges - 1) {
            uint32_t shift = (uint32_t)__builtin_ctzll(edges);
            uint64_t edge = base + shift / TAG_BITS;
            add_run(&list, start, edge, tag);
            start = edge;
            tag = word >> shift & TAG_MASK;
        }
    }
    add_run(&list, start, granules, tag);
    return list.count;
}

/* A comparison of vectors is -1 where it holds, so 127 vectors with two tags a byte fit into one of
 * counters. */
typedef uint8_t vector __attribute__((vector_size(64)));
enum { VECTORS_AT_ONCE = 127 };

uint64_t ta_tags_count(const uint8_t *packed, size_t bytes)
{
    uint64_t count = 0;
    size_t at = 0;
    while (bytes - at >= sizeof(vector)) {
        vector counters = {0}, tags;
        for (size_t i = 0; i < VECTORS_AT_ONCE && bytes - at >= sizeof tags; i++) {
            memcpy(&tags, packed + at, sizeof tags);
            counters -= (vector)((tags & TAG_MASK) != 0) + (vector)((tags >> TAG_BITS) != 0);
            at += sizeof tags;
        }
        for (size_t i = 0; i < sizeof counters; i++)
            count += counters[i];
    }
    for (; at < bytes; at++)
        count += (uint64_t)((packed[at] & TAG_MASK) != 0) + (packed[at] >> TAG_BITS != 0);
    return count;
}

/* Leaves at the first block that is not zero: most pages in use differ in their first line. */
static uint8_t all_zero(const uint8_t *bytes, size_t words)
{
    size_t i = 0;
    for (; i + BLOCK_WORDS <= words; i += BLOCK_WORDS) {
        uint64_t any = 0;
        for (size_t k = 0; k < BLOCK_WORDS; k++)
            any |= load_word(bytes + (i + k) * sizeof any);
        if (any != 0)
            return 0;
    }
    for (; i < words; i++)
        if (load_word(bytes + i * sizeof(uint64_t)) != 0)
            return 0;
    return 1;
}

void ta_pages_zero(const uint8_t *data, size_t pages, size_t page_bytes, uint8_t *is_zero)
{
    for (size_t page = 0; page < pages; page++) {
        /* Of most pages one line is read, and no processor foresees the next page's. */
        __builtin_prefetch(data + (page + PREFETCH_PAGES) * page_bytes);
        is_zero[page] = all_zero(data + page * page_bytes, page_bytes / sizeof(uint64_t));
    }
}
