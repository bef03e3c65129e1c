/* The life of a block: allocated, re-tagged, verified, freed. */
#include "churn.h"
#include "random.h"

#define WORD_STEP 0x9e3779b97f4a7c15

/* Words of a block's data: the first, and by how much each next one differs. */
static u64 first_word(const struct share *share, u64 serial) {
    return random_mix(serial ^ share->vcpu << 56 ^ share->knobs->seed);
}

static void write_data(struct share *share, const struct segment *segment) {
    u64 *word = (u64 *)segment_pointer(segment);
    u64 value = first_word(share, segment->serial);
    for (u32 left = segment->granules; left > 0; left--, word += 2, value += 2 * WORD_STEP) {
        word[0] = value;
        word[1] = value + WORD_STEP;
    }
    share->work += segment->granules;
}

/* The two words of a granule: what the first is, and the second. */
struct words {
    u64 first;
    u64 second;
};

static struct words expected_words(const struct share *share, const struct segment *segment,
                                   u64 pointer) {
    u64 word = (pointer_untagged(pointer) - segment->origin) / sizeof(u64);
    u64 value;
    switch (segment->content) {
    case CONTENT_BLOCK:
        value = first_word(share, segment->serial) + word * WORD_STEP;
        return (struct words){value, value + WORD_STEP};
    case CONTENT_POINTERS:
        return (struct words){pointer, ~pointer};
    default:
        return (struct words){0, 0};
    }
}

static void verify_data(const struct share *share, const struct segment *segment, u64 pointer) {
    const u64 *words = (const u64 *)pointer;
    struct words expected = expected_words(share, segment, pointer);
    require(share, "data", pointer, expected.first, words[0]);
    require(share, "data", pointer + sizeof(u64), expected.second, words[1]);
}

void segment_verify(struct share *share, const struct segment *segment) {
    u64 pointer = segment_pointer(segment), end = pointer + segment_bytes(segment);
    for (; pointer < end; pointer += GRANULE_BYTES) {
        require(share, "allocation tag", pointer, segment->tag, granule_tag(pointer));
        if (segment->content != CONTENT_UNKNOWN)
            verify_data(share, segment, pointer);
    }
    share->work += segment->granules;
}

static u64 random_size(struct share *share) {
    u64 low = 1UL << random_below(&share->random, MAX_BLOCK_SHIFT);
    return low + random_below(&share->random, low);
}

static void set_previous(struct share *share, u32 index, u32 previous) {
    if (index == NO_SEGMENT)
        return;
    struct segment segment = segment_get(share, index);
    segment.previous = previous;
    segment_put(share, index, &segment);
}

static void set_next(struct share *share, u32 index, u32 next) {
    if (index == NO_SEGMENT) {
        share->first = next;
        return;
    }
    struct segment segment = segment_get(share, index);
    segment.next = next;
    segment_put(share, index, &segment);
}

/* Cuts a free segment down to `granules` if there is an entry for the rest. */
static void split(struct share *share, u32 index, struct segment *segment, u32 granules) {
    u32 rest_index = granules < segment->granules ? segment_take(share) : NO_SEGMENT;
    if (rest_index == NO_SEGMENT)
        return;
    struct segment rest = *segment;
    rest.start += granules * GRANULE_BYTES;
    rest.granules -= granules;
    rest.previous = index;
    segment_put(share, rest_index, &rest);
    set_previous(share, segment->next, rest_index);
    segment->next = rest_index;
    segment->granules = granules;
}

void block_allocate(struct share *share, u32 index) {
    struct segment segment = segment_get(share, index);
    u64 old_tag = 1UL << segment.tag;
    split(share, index, &segment, (u32)random_size(share));
    segment_verify(share, &segment);
    u64 neighbours = segment_tag_mask(share, segment.previous) |
                     segment_tag_mask(share, segment.next);
    segment.tag = (u8)draw_tag(share, segment.start, neighbours | old_tag);
    segment.state = SEGMENT_LIVE;
    segment.serial = ++share->serial;
    segment.origin = segment.start;
    segment.content = CONTENT_BLOCK;
    tag_any_way(share, segment_pointer(&segment), segment.granules);
    write_data(share, &segment);
    segment_put(share, index, &segment);
    share->blocks++;
    share->live_granules += segment.granules;
}

/* Joins the segment with its neighbour `other` if that is free; the entry of the one at the
 * lower address goes on. Returns the mask of the tag that the neighbour had. */
static u64 join(struct share *share, u32 *index, struct segment *segment, u32 other) {
    if (other == NO_SEGMENT)
        return 0;
    struct segment neighbour = segment_get(share, other);
    if (neighbour.state != SEGMENT_FREE ||
        neighbour.granules + segment->granules > MAX_FREE_GRANULES)
        return 0;
    bool is_before = neighbour.start < segment->start;
    u32 kept = is_before ? other : *index, dropped = is_before ? *index : other;
    struct segment *low = is_before ? &neighbour : segment;
    struct segment *high = is_before ? segment : &neighbour;
    segment->next = high->next;
    segment->previous = low->previous;
    segment->start = low->start;
    segment->granules += neighbour.granules;
    set_previous(share, segment->next, kept);
    set_next(share, segment->previous, kept);
    segment_release(share, dropped);
    *index = kept;
    return 1UL << neighbour.tag;
}

/* What kind of data a free segment is left with: the block's, unless the tagging changed it
 * or other segments with other data were joined. */
static void retag_free(struct share *share, struct segment *segment, bool is_alone) {
    u64 pointer = segment_pointer(segment);
    enum segment_content content = tag_any_way(share, pointer, segment->granules);
    if (content != CONTENT_UNKNOWN || !is_alone)
        segment->content = (u8)content;
}

void block_free(struct share *share, u32 index) {
    struct segment segment = segment_get(share, index);
    u64 stale = segment_pointer(&segment), granules = segment.granules;
    segment_verify(share, &segment);
    u64 exclude = 1UL << segment.tag;
    segment.state = SEGMENT_FREE;
    exclude |= join(share, &index, &segment, segment.next);
    exclude |= join(share, &index, &segment, segment.previous);
    exclude |= segment_tag_mask(share, segment.previous);
    exclude |= segment_tag_mask(share, segment.next);
    segment.tag = (u8)draw_tag(share, segment.start, exclude);
    retag_free(share, &segment, segment.granules == granules);
    segment_put(share, index, &segment);
    share->blocks--;
    share->live_granules -= granules;
    provoke_use_after_free(share, stale, granules);
}

void block_retag(struct share *share, u32 index) {
    struct segment segment = segment_get(share, index);
    u64 exclude = 1UL << segment.tag | segment_tag_mask(share, segment.previous) |
                  segment_tag_mask(share, segment.next);
    segment.tag = (u8)draw_tag(share, segment.start, exclude);
    tag_only(share, segment_pointer(&segment), segment.granules);
    segment_put(share, index, &segment);
    share->retags++;
}
