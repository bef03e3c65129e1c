/* Tags: drawn by IRG, set in every way there is, read back by LDG. */
#include "churn.h"

#define PAIR_BYTES (2 * GRANULE_BYTES)

typedef void tag_method(u64 pointer, u64 end);

unsigned draw_tag(struct share *share, u64 address, u64 exclude) {
    unsigned expected = lfsr_next_tag(&share->lfsr, exclude | EXCLUDED_TAGS);
    unsigned tag = pointer_tag(mte_irg(address, exclude));
    require(share, "irg", address, expected, tag);
    return tag;
}

static void by_stg(u64 pointer, u64 end) {
    for (; pointer < end; pointer += GRANULE_BYTES)
        mte_stg(pointer, pointer);
}

static void by_stzg(u64 pointer, u64 end) {
    for (; pointer < end; pointer += GRANULE_BYTES)
        mte_stzg(pointer, pointer);
}

static void by_st2g(u64 pointer, u64 end) {
    for (; end - pointer >= PAIR_BYTES; pointer += PAIR_BYTES)
        mte_st2g(pointer, pointer);
    by_stg(pointer, end);
}

static void by_stz2g(u64 pointer, u64 end) {
    for (; end - pointer >= PAIR_BYTES; pointer += PAIR_BYTES)
        mte_stz2g(pointer, pointer);
    by_stzg(pointer, end);
}

static void by_stgp(u64 pointer, u64 end) {
    for (; pointer < end; pointer += GRANULE_BYTES)
        mte_stgp(pointer, pointer, ~pointer);
}

/* One `block` operation for every whole block, `edges` before and behind. */
static void by_blocks(u64 pointer, u64 end, u64 block_bytes, void (*block)(u64),
                      tag_method *edges) {
    u64 first = (pointer + block_bytes - 1) & ~(block_bytes - 1);
    u64 last = end & ~(block_bytes - 1);
    if (first >= last) {
        edges(pointer, end);
        return;
    }
    edges(pointer, first);
    for (u64 address = first; address < last; address += block_bytes)
        block(address);
    edges(last, end);
}

static void by_gva(u64 pointer, u64 end) {
    by_blocks(pointer, end, mte_zero_bytes(), dc_gva, by_st2g);
}

static void by_gzva(u64 pointer, u64 end) {
    by_blocks(pointer, end, mte_zero_bytes(), dc_gzva, by_stz2g);
}

static void store_multiple(u64 pointer) {
    mte_stgm(pointer_tag(pointer) * 0x1111111111111111, pointer);
}

static void by_stgm(u64 pointer, u64 end) {
    by_blocks(pointer, end, mte_bulk_bytes(), store_multiple, by_stg);
}

static void store_zero_multiple(u64 pointer) {
    mte_stzgm(pointer_tag(pointer), pointer);
}

static void by_stzgm(u64 pointer, u64 end) {
    by_blocks(pointer, end, mte_zero_bytes(), store_zero_multiple, by_stzg);
}

enum segment_content tag_any_way(struct share *share, u64 pointer, u64 granules) {
    static const struct {
        tag_method *tag;
        enum segment_content content;
    } ways[] = {
        {by_stg, CONTENT_UNKNOWN},   {by_st2g, CONTENT_UNKNOWN}, {by_stzg, CONTENT_ZERO},
        {by_stz2g, CONTENT_ZERO},    {by_stgp, CONTENT_POINTERS}, {by_gva, CONTENT_UNKNOWN},
        {by_gzva, CONTENT_ZERO},     {by_stgm, CONTENT_UNKNOWN}, {by_stzgm, CONTENT_ZERO},
    };
    u64 way = share->way++ % COUNT(ways);
    ways[way].tag(pointer, pointer + granules * GRANULE_BYTES);
    share->work += granules;
    return ways[way].content;
}

void tag_only(struct share *share, u64 pointer, u64 granules) {
    static tag_method *const ways[] = {by_stg, by_st2g, by_gva, by_stgm};
    ways[share->way++ % COUNT(ways)](pointer, pointer + granules * GRANULE_BYTES);
    share->work += granules;
}
