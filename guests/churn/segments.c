/* The table of segments. */
#include "churn.h"
#include "random.h"

/* One entry for so many bytes of the share: blocks are larger than that on average. */
#define BYTES_PER_ENTRY 512

static u64 checksum(u32 index, const struct segment *segment) {
    u64 links = (u64)segment->previous << 32 | segment->next;
    u64 rest = (u64)segment->granules << 32 | (u64)segment->content << 16 |
               (u64)segment->tag << 8 | segment->state;
    return random_mix(random_mix(random_mix(segment->start + index) ^ links) ^ rest) ^
           random_mix(segment->origin + segment->serial);
}

struct segment segment_get(const struct share *share, u32 index) {
    struct segment segment = share->table[index];
    require(share, "table entry", (u64)&share->table[index], checksum(index, &segment),
            segment.check);
    return segment;
}

static u64 weight(const struct segment *segment) {
    return segment->state == SEGMENT_UNUSED ? 0 : segment->check;
}

void segment_put(struct share *share, u32 index, struct segment *segment) {
    segment->check = checksum(index, segment);
    share->sum += weight(segment) - weight(&share->table[index]);
    share->table[index] = *segment;
}

u32 segment_take(struct share *share) {
    u32 index = share->first_unused;
    if (index != NO_SEGMENT)
        share->first_unused = segment_get(share, index).next;
    return index;
}

void segment_release(struct share *share, u32 index) {
    struct segment unused = {.next = share->first_unused, .previous = NO_SEGMENT};
    segment_put(share, index, &unused);
    share->first_unused = index;
}

u32 segment_any(struct share *share) {
    for (;;) {
        u32 index = (u32)random_below(&share->random, share->entries);
        if (segment_get(share, index).state != SEGMENT_UNUSED)
            return index;
    }
}

u64 segment_tag_mask(const struct share *share, u32 index) {
    return index == NO_SEGMENT ? 0 : 1UL << segment_get(share, index).tag;
}

static void create_table(struct share *share, u64 start) {
    u64 bytes = share->entries * sizeof(struct segment);
    u64 pointer = pointer_with_tag(start, draw_tag(share, start, 0));
    tag_only(share, pointer, bytes / GRANULE_BYTES);
    share->table = (struct segment *)pointer;
    share->first_unused = NO_SEGMENT;
    for (u32 index = share->entries; index-- > 0;) {
        share->table[index] = (struct segment){0};
        segment_release(share, index);
    }
}

static u32 append(struct share *share, u32 last, u64 start, u64 granules) {
    u32 index = segment_take(share);
    struct segment segment = {.start = start, .granules = (u32)granules, .previous = last,
                              .next = NO_SEGMENT, .state = SEGMENT_FREE};
    segment.tag = (u8)draw_tag(share, start, segment_tag_mask(share, last));
    tag_only(share, segment_pointer(&segment), granules);
    segment_put(share, index, &segment);
    if (last != NO_SEGMENT) {
        struct segment before = segment_get(share, last);
        before.next = index;
        segment_put(share, last, &before);
    }
    return index;
}

void segments_create(struct share *share, u64 start, u64 bytes) {
    share->entries = (u32)(bytes / BYTES_PER_ENTRY);
    create_table(share, start);
    share->heap = start + share->entries * sizeof(struct segment);
    share->heap_granules = (start + bytes - share->heap) / GRANULE_BYTES;
    u32 last = NO_SEGMENT;
    for (u64 done = 0; done < share->heap_granules; done += MAX_FREE_GRANULES) {
        u64 left = share->heap_granules - done;
        last = append(share, last, share->heap + done * GRANULE_BYTES,
                      left < MAX_FREE_GRANULES ? left : MAX_FREE_GRANULES);
        if (done == 0)
            share->first = last;
    }
}

/* What the walk must come to. */
struct tally {
    u64 granules;
    u64 live_granules;
    u64 blocks;
    u64 sum;
};

static void audit_segment(const struct share *share, const struct segment *segment,
                          u32 previous, const struct tally *tally) {
    u64 start = share->heap + tally->granules * GRANULE_BYTES;
    require(share, "segment start", start, start, segment->start);
    require(share, "segment link", segment->start, previous, segment->previous);
}

void segments_audit(const struct share *share) {
    struct tally tally = {0};
    u32 previous = NO_SEGMENT;
    for (u32 index = share->first; index != NO_SEGMENT;) {
        struct segment segment = segment_get(share, index);
        audit_segment(share, &segment, previous, &tally);
        tally.granules += segment.granules;
        tally.live_granules += segment.state == SEGMENT_LIVE ? segment.granules : 0;
        tally.blocks += segment.state == SEGMENT_LIVE;
        tally.sum += segment.check;
        previous = index;
        index = segment.next;
    }
    require(share, "heap size in granules", share->heap, share->heap_granules, tally.granules);
    require(share, "number of blocks", share->heap, share->blocks, tally.blocks);
    require(share, "granules of blocks", share->heap, share->live_granules, tally.live_granules);
    require(share, "sum of the table", (u64)share->table, share->sum, tally.sum);
}
