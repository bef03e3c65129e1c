/* The tags of a batch as runs (docs/formats/stream.md, section 4, "Runs of tags").
 *
 * A run is a tag and a length, in nibbles: what allocators write is short runs of random tags, so
 * half of a run is what no compressor can shrink, and the other half is mostly one nibble. A
 * general compressor needs twice the bytes and three times the time for it.
 *
 * In a word of runs, as in one of tags, the lowest nibble comes first. */
#include "tag_words.h"
#include "tagalong.h"

#include <string.h>

enum { WORD_BYTES = 8, BLOCK_WORDS = 4 };
enum { GROUP_BITS = 3, GROUP_MASK = 7, MORE_GROUPS = 8, MAX_GROUPS = 14 };
enum { SAMPLES = 16, SAMPLE_BYTES = 256, SAMPLED_FROM_BYTES = 2 * SAMPLES * SAMPLE_BYTES };

/* Whether runs would take about as much as the tags themselves, by samples from all of the plane:
 * random tags must cost next to nothing. A run takes two nibbles or more. */
static int has_too_many_runs(const uint8_t *packed, size_t bytes)
{
    if (bytes < SAMPLED_FROM_BYTES)
        return 0;
    size_t edges = 0;
    for (size_t sample = 0; sample < SAMPLES; sample++) {
        const uint8_t *at = packed + bytes / SAMPLES * sample / WORD_BYTES * WORD_BYTES;
        for (size_t i = 0; i < SAMPLE_BYTES; i += WORD_BYTES)
            edges += (size_t)__builtin_popcountll(tag_edges(load_word(at + i), at[i] & TAG_MASK));
    }
    return edges > (size_t)SAMPLES * SAMPLE_BYTES * 7 / 8;
}

struct run_writer {
    uint8_t *out;
    size_t room; /* bytes that may be written, eight more than are used */
    size_t used; /* whole bytes */
    uint64_t pending; /* the nibble behind them, if there is one */
    uint32_t pending_bits; /* 0 or 4 */
};

/* 0 if there is no room. */
static int put_run(struct run_writer *writer, uint64_t tag, uint64_t length)
{
    if (writer->used + 2 * WORD_BYTES > writer->room)
        return 0;
    uint64_t nibbles = tag, left = length - 1;
    uint32_t bits = TAG_BITS;
    do {
        uint64_t group = left & GROUP_MASK;
        left >>= GROUP_BITS;
        nibbles |= (left ? group | MORE_GROUPS : group) << bits;
        bits += TAG_BITS;
    } while (left);
    nibbles = nibbles << writer->pending_bits | writer->pending;
    bits += writer->pending_bits;
    memcpy(writer->out + writer->used, &nibbles, sizeof nibbles);
    writer->used += bits / 8;
    writer->pending_bits = bits % 8;
    writer->pending = writer->pending_bits ? nibbles >> (bits - TAG_BITS) & TAG_MASK : 0;
    return 1;
}

/* The first word from `at` on that is not `same`, or `words`. */
static size_t skip_same(const uint8_t *packed, size_t at, size_t words, uint64_t same)
{
    for (; at + BLOCK_WORDS <= words; at += BLOCK_WORDS) {
        uint64_t differs = 0;
        for (size_t i = 0; i < BLOCK_WORDS; i++)
            differs |= load_word(packed + (at + i) * WORD_BYTES) ^ same;
        if (differs)
            break;
    }
    while (at < words && load_word(packed + at * WORD_BYTES) == same)
        at++;
    return at;
}

int64_t ta_tag_runs_encode(const uint8_t *packed, size_t bytes, uint8_t *out, size_t room)
{
    if (has_too_many_runs(packed, bytes))
        return -1;
    struct run_writer writer = {.out = out, .room = room};
    size_t words = bytes / WORD_BYTES;
    uint64_t tag = packed[0] & TAG_MASK, start = 0;
    for (size_t at = skip_same(packed, 0, words, tag * EACH_TAG); at < words;
         at = skip_same(packed, at + 1, words, tag * EACH_TAG)) {
        uint64_t word = load_word(packed + at * WORD_BYTES);
        for (uint64_t edges = tag_edges(word, tag); edges != 0; edges &= edges - 1) {
            uint32_t shift = (uint32_t)__builtin_ctzll(edges);
            uint64_t edge = at * TAGS_PER_WORD + shift / TAG_BITS;
            if (!put_run(&writer, tag, edge - start))
                return -1;
            start = edge;
            tag = word >> shift & TAG_MASK;
        }
    }
    if (start == 0 && tag == 0)
        return 0;
    if (!put_run(&writer, tag, words * TAGS_PER_WORD - start))
        return -1;
    return (int64_t)(writer.used + (writer.pending_bits != 0));
}

struct run_reader {
    const uint8_t *runs;
    size_t bytes;
    size_t at; /* the next nibble */
};

/* The nibbles from the next one on, the first lowest, 15 of them at least; zero behind the end. */
static uint64_t next_nibbles(const struct run_reader *reader)
{
    size_t byte = reader->at / 2, left = reader->bytes - byte;
    uint64_t word = 0;
    if (left >= WORD_BYTES)
        word = load_word(reader->runs + byte);
    else
        memcpy(&word, reader->runs + byte, left);
    return word >> reader->at % 2 * TAG_BITS;
}

/* 0, or what is wrong with the run. A tag and all groups of its length are in one word. */
static int next_run(struct run_reader *reader, uint64_t *tag, uint64_t *length)
{
    size_t left = 2 * reader->bytes - reader->at;
    uint64_t nibbles = next_nibbles(reader);
    *tag = nibbles & TAG_MASK;
    nibbles >>= TAG_BITS;
    uint64_t less_one = nibbles & GROUP_MASK;
    size_t groups = 1;
    for (; nibbles & MORE_GROUPS; groups++) {
        nibbles >>= TAG_BITS;
        if (groups == MAX_GROUPS)
            return left > MAX_GROUPS ? TA_TAG_RUNS_LENGTH : TA_TAG_RUNS_END;
        less_one |= (nibbles & GROUP_MASK) << groups * GROUP_BITS;
    }
    if (left < 1 + groups)
        return TA_TAG_RUNS_END;
    if (groups > 1 && (nibbles & TAG_MASK) == 0)
        return TA_TAG_RUNS_LENGTH;
    reader->at += 1 + groups;
    *length = less_one + 1;
    return 0;
}

/* Writes a run from granule `start` on, but for the word that it ends in, which is returned: the
 * next run overwrites what is behind the end. `pending` is the word that the run begins in. */
static uint64_t write_run(uint8_t *packed, uint64_t start, uint64_t length, uint64_t tag,
                          uint64_t pending)
{
    uint64_t word = tag * EACH_TAG;
    uint32_t shift = start % TAGS_PER_WORD * TAG_BITS;
    pending = (pending & ~(UINT64_MAX << shift)) | word << shift;
    uint64_t at = start / TAGS_PER_WORD, end = (start + length) / TAGS_PER_WORD;
    if (at == end)
        return pending;
    memcpy(packed + at * WORD_BYTES, &pending, sizeof pending);
    for (at++; at < end; at++)
        memcpy(packed + at * WORD_BYTES, &word, sizeof word);
    return word;
}

int ta_tag_runs_decode(const uint8_t *runs, size_t bytes, uint8_t *packed, size_t packed_bytes,
                       uint64_t *place)
{
    struct run_reader reader = {runs, bytes, 0};
    uint64_t granules = 2 * (uint64_t)packed_bytes, before = TAG_MASK + 1, pending = 0;
    for (uint64_t done = 0; done < granules;) {
        uint64_t tag, length;
        *place = reader.at / 2;
        if (reader.at == 2 * bytes)
            return TA_TAG_RUNS_END;
        int error = next_run(&reader, &tag, &length);
        if (tag == before)
            return TA_TAG_RUNS_SAME_TAG;
        if (error)
            return error;
        if (length > granules - done)
            return TA_TAG_RUNS_BEYOND;
        pending = write_run(packed, done, length, tag, pending);
        done += length;
        before = tag;
    }
    *place = reader.at / 2;
    if (reader.at % 2 && runs[reader.at++ / 2] >> TAG_BITS)
        return TA_TAG_RUNS_REST;
    return reader.at == 2 * bytes ? 0 : TA_TAG_RUNS_REST;
}
