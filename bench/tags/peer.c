/* The run-length scheme for tags of swapped pages that was proposed for arm64's kernel
 * (Documentation/arch/arm64/mte-tag-compression.rst of the series "arm64: mte: add compression
 * support to mteswap.c", with its storage classes): written from that description, as a peer to
 * measure ours beside. The description leaves open how runs are found; here it is by words, which
 * is quicker than a look at each tag.
 *
 * A page of 256 tags becomes runs. The longest run's length is left out: it is what the others
 * leave. Of N runs the fields are, from bit 0 on: the index of the longest, N tags of 4 bits, N - 1
 * lengths of 7 bits. N decides how many bytes are taken: 8, 16, 32, 64; beyond, the page's 128. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { PAGE_TAG_BYTES = 128, GRANULES = 256, MAX_RUNS = 46, CLASSES = 4 };
enum { TAG_BITS = 4, LENGTH_BITS = 7, INLINE_INDEX_BITS = 4, INDEX_BITS = 6 };

static const struct {
    uint32_t runs, bytes;
} classes[CLASSES] = {{6, 8}, {11, 16}, {23, 32}, {46, 64}};

struct runs {
    uint32_t count;
    uint8_t tags[MAX_RUNS + 1];
    uint16_t lengths[MAX_RUNS + 1];
};

/* 0 if there are too many. */
static int find_runs(const uint8_t *packed, struct runs *runs)
{
    uint64_t tag = packed[0] & 15;
    uint32_t start = 0, count = 0;
    for (uint32_t word_at = 0; word_at < PAGE_TAG_BYTES; word_at += 8) {
        uint64_t word;
        memcpy(&word, packed + word_at, sizeof word);
        uint64_t edges = word ^ (word << TAG_BITS | tag);
        edges |= edges >> 2;
        edges |= edges >> 1;
        for (edges &= UINT64_C(0x1111111111111111); edges; edges &= edges - 1) {
            uint32_t shift = (uint32_t)__builtin_ctzll(edges);
            uint32_t edge = 2 * word_at + shift / TAG_BITS;
            if (count == MAX_RUNS)
                return 0;
            runs->tags[count] = (uint8_t)tag;
            runs->lengths[count++] = (uint16_t)(edge - start);
            start = edge;
            tag = word >> shift & 15;
        }
    }
    if (count == MAX_RUNS)
        return 0;
    runs->tags[count] = (uint8_t)tag;
    runs->lengths[count++] = (uint16_t)(GRANULES - start);
    if (count == 1) {
        runs->tags[1] = runs->tags[0];
        runs->lengths[0] = runs->lengths[1] = GRANULES / 2;
        count = 2;
    }
    runs->count = count;
    return 1;
}

struct bits {
    uint64_t words[8];
    uint32_t at;
};

static void put(struct bits *bits, uint64_t value, uint32_t width)
{
    uint32_t word = bits->at / 64, shift = bits->at % 64;
    bits->words[word] |= value << shift;
    if (shift + width > 64)
        bits->words[word + 1] |= value >> (64 - shift);
    bits->at += width;
}

static uint32_t get(struct bits *bits, uint32_t width)
{
    uint32_t word = bits->at / 64, shift = bits->at % 64;
    uint64_t value = bits->words[word] >> shift;
    if (shift + width > 64)
        value |= bits->words[word + 1] << (64 - shift);
    bits->at += width;
    return (uint32_t)(value & ((1u << width) - 1));
}

static uint32_t compress_page(const uint8_t *packed, uint8_t *out)
{
    struct runs runs;
    if (!find_runs(packed, &runs)) {
        memcpy(out, packed, PAGE_TAG_BYTES);
        return PAGE_TAG_BYTES;
    }
    uint32_t class = 0, largest = 0;
    while (runs.count > classes[class].runs)
        class++;
    for (uint32_t i = 1; i < runs.count; i++)
        if (runs.lengths[i] > runs.lengths[largest])
            largest = i;
    struct bits bits = {.at = 0};
    put(&bits, largest, class == 0 ? INLINE_INDEX_BITS : INDEX_BITS);
    for (uint32_t i = 0; i < classes[class].runs; i++)
        put(&bits, i < runs.count ? runs.tags[i] : 0, TAG_BITS);
    for (uint32_t i = 0; i < runs.count; i++)
        if (i != largest) /* half a page is 0 */
            put(&bits, runs.lengths[i] % (GRANULES / 2), LENGTH_BITS);
    memcpy(out, bits.words, classes[class].bytes);
    return classes[class].bytes;
}

static void fill(uint8_t *packed, uint32_t start, uint32_t length, uint32_t tag)
{
    uint32_t stop = start + length;
    if (start % 2 && start < stop) {
        packed[start / 2] = (uint8_t)((packed[start / 2] & 15) | tag << TAG_BITS);
        start++;
    }
    if (start < stop)
        memset(packed + start / 2, (int)(tag * 0x11), (stop + 1) / 2 - start / 2);
}

static void decompress_page(const uint8_t *data, uint32_t bytes, uint8_t *packed)
{
    if (bytes == PAGE_TAG_BYTES) {
        memcpy(packed, data, PAGE_TAG_BYTES);
        return;
    }
    uint32_t class = 0;
    while (bytes > classes[class].bytes)
        class++;
    struct bits bits = {.at = 0};
    memcpy(bits.words, data, bytes);
    uint32_t most = classes[class].runs, sum = 0, tags[MAX_RUNS], lengths[MAX_RUNS];
    uint32_t largest = get(&bits, class == 0 ? INLINE_INDEX_BITS : INDEX_BITS);
    for (uint32_t i = 0; i < most; i++)
        tags[i] = get(&bits, TAG_BITS);
    for (uint32_t i = 0; i < most; i++) {
        lengths[i] = i == largest ? 0 : get(&bits, LENGTH_BITS);
        sum += lengths[i];
    }
    if (largest == 0 && sum == 0)
        lengths[1] = sum = GRANULES / 2;
    lengths[largest] = GRANULES - sum;
    for (uint32_t i = 0, start = 0; i < most && start < GRANULES; start += lengths[i++])
        fill(packed, start, lengths[i], tags[i]);
}

size_t peer_compress(const uint8_t *packed, size_t pages, uint8_t *out, uint8_t *sizes)
{
    uint8_t *at = out;
    for (size_t page = 0; page < pages; page++) {
        sizes[page] = (uint8_t)compress_page(packed + page * PAGE_TAG_BYTES, at);
        at += sizes[page];
    }
    return (size_t)(at - out);
}

void peer_decompress(const uint8_t *data, const uint8_t *sizes, size_t pages, uint8_t *packed)
{
    for (size_t page = 0; page < pages; page++) {
        decompress_page(data, sizes[page], packed + page * PAGE_TAG_BYTES);
        data += sizes[page];
    }
}
