/* churn: an allocator's work on tagged memory, distrustful of everything.
 *
 * Each vCPU has a share of the heap: a table of segments and, behind it, the memory that
 * the segments tile without gaps, in address order. A segment is live (a block with known
 * tag and data) or free (known tag). Whatever is read back is compared with what it must be;
 * the table itself lies in tagged memory, every entry with its own checksum. */
#ifndef CHURN_H
#define CHURN_H

#include "lfsr.h"
#include "mte.h"
#include "types.h"

#define NO_SEGMENT 0xffffffffu

/* Longer free segments are not joined, larger blocks not allocated; in granules. */
#define MAX_FREE_GRANULES 4096
#define MAX_BLOCK_SHIFT 11

/* Memory that was never tagged has tag 0, so no segment uses it (GCR_EL1.Exclude). */
#define EXCLUDED_TAGS 0x0001

enum segment_state { SEGMENT_UNUSED, SEGMENT_FREE, SEGMENT_LIVE };

/* What the words of a segment hold; of a free one it depends on how it was tagged. */
enum segment_content {
    CONTENT_UNKNOWN,
    CONTENT_ZERO,
    CONTENT_POINTERS, /* each granule its own pointer, and that inverted */
    CONTENT_BLOCK,    /* a block's data, also that of a freed one */
};

/* One entry of the table: three granules. */
struct segment {
    u64 start; /* gpa */
    u32 granules;
    u32 previous; /* index of the neighbours; of an unused entry: `next` is the next unused */
    u32 next;
    u8 tag;
    u8 state;
    u8 content;
    u8 zero;
    u64 serial; /* of the block that is or was here, and where it began: */
    u64 origin; /* its data follows from both */
    u64 check;
};

_Static_assert(sizeof(struct segment) % GRANULE_BYTES == 0, "entries share no granule");

/* The command line. */
struct knobs {
    u64 working_set_bytes;
    u64 write_rate;       /* percent of the time at work, the rest idle; 0: only look */
    u64 tag_only_percent; /* of the operations change nothing but tags */
    u64 report_operations;
    u64 seed;
};

/* Everything a vCPU works with. */
struct share {
    u64 vcpu;
    const struct knobs *knobs;
    u64 random;
    struct lfsr lfsr; /* what RGSR_EL1 must be */

    struct segment *table; /* through a pointer with the table's tag */
    u32 entries;
    u32 first_unused;
    u32 first; /* in address order */
    u64 heap;  /* gpa */
    u64 heap_granules;
    u64 sum; /* of the checksums of all used entries */

    u64 serial; /* of the last block */
    u64 way; /* rotates through the ways to tag */
    u64 provocation;
    u64 work; /* granules touched since the last idle time */

    u64 operations;
    u64 blocks;
    u64 live_granules;
    u64 retags;
    u64 faults;
};

static inline u64 segment_bytes(const struct segment *segment) {
    return segment->granules * GRANULE_BYTES;
}

/* The only pointer through which a segment's memory may be accessed. */
static inline u64 segment_pointer(const struct segment *segment) {
    return pointer_with_tag(segment->start, segment->tag);
}

/* --- report.c ------------------------------------------------------------------------------ */

/* Prints the one FAIL line of this vCPU and powers the machine off. */
_Noreturn void fail(const struct share *share, const char *what, u64 address, u64 expected,
                    u64 got);

static inline void require(const struct share *share, const char *what, u64 address,
                           u64 expected, u64 got) {
    if (expected != got)
        fail(share, what, address, expected, got);
}

void report_progress(const struct share *share);

/* --- segments.c ------------------------------------------------------------------------------ */

/* Makes the table and tiles the heap with free, tagged segments. */
void segments_create(struct share *share, u64 start, u64 bytes);

/* Reads an entry; fails if it is not what was written. */
struct segment segment_get(const struct share *share, u32 index);
void segment_put(struct share *share, u32 index, struct segment *segment);

/* Takes an unused entry, or returns NO_SEGMENT; gives one back. */
u32 segment_take(struct share *share);
void segment_release(struct share *share, u32 index);

/* A random entry in use. */
u32 segment_any(struct share *share);

/* The tag of the segment at `index`, as a mask; 0 for NO_SEGMENT. */
u64 segment_tag_mask(const struct share *share, u32 index);

/* Walks the whole table: links, sizes, counts, sum. */
void segments_audit(const struct share *share);

/* --- tagging.c ------------------------------------------------------------------------------- */

/* IRG, compared with the model. */
unsigned draw_tag(struct share *share, u64 address, u64 exclude);

/* Give granules the tag of `pointer`, each time in another way. The first may change their
 * data and returns to what; the second leaves it. */
enum segment_content tag_any_way(struct share *share, u64 pointer, u64 granules);
void tag_only(struct share *share, u64 pointer, u64 granules);

/* --- blocks.c -------------------------------------------------------------------------------- */

void block_allocate(struct share *share, u32 index);
void block_free(struct share *share, u32 index);
void block_retag(struct share *share, u32 index);

/* Tag of every granule, and data where it is known. */
void segment_verify(struct share *share, const struct segment *segment);

/* --- provoke.c ------------------------------------------------------------------------------- */

/* Makes a wrong access to, or just beside, a live block, and requires its fault. */
void provoke_near(struct share *share, u32 index);

/* Load and store through a pointer to a block that is free now. */
void provoke_use_after_free(struct share *share, u64 stale_pointer, u64 granules);

/* --- audit.c --------------------------------------------------------------------------------- */

/* Gives registers that churn has no use for values to be found again. */
void registers_mark(const struct share *share);

/* System registers, the marks, the MTE state. */
void registers_audit(const struct share *share);

/* Fills x1 to x30, waits, looks. */
void registers_soak(const struct share *share);

#endif
