/* The blocks of a heap: taken, filled, verified, and given back. */
#include "heap.h"

#include <stdlib.h>
#include <string.h>

#define SMALL_BYTES 2048
#define LARGE_BYTES (256 << 10) /* more than the library takes from its heap: mmap's */
#define LARGE_EVERY 256
#define WORD_BYTES 8

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 31) * 0x7fb5d329728ea185;
    value = (value ^ value >> 27) * 0x81dadef4bc2dd44d;
    return value ^ value >> 33;
}

uint64_t draw(struct heap *heap) {
    heap->random = mix(heap->random + 0x9e3779b97f4a7c15);
    return heap->random;
}

static size_t draw_bytes(struct heap *heap) {
    uint64_t drawn = draw(heap);
    return (drawn % LARGE_EVERY ? drawn >> 32 & (SMALL_BYTES - 1) : LARGE_BYTES) + 1;
}

static size_t word_bytes(size_t bytes, size_t at) {
    return bytes - at < WORD_BYTES ? bytes - at : WORD_BYTES;
}

static void fill(struct heap *heap, struct block *block) {
    block->seed = draw(heap);
    for (size_t at = 0; at < block->bytes; at += WORD_BYTES) {
        uint64_t word = mix(block->seed + at);
        memcpy(block->pointer + at, &word, word_bytes(block->bytes, at));
    }
}

static void check_tags(const struct heap *heap, const struct block *block) {
    unsigned tag = tag_of_pointer(block->pointer);
    if (!tag)
        fail("thread=%u a block of %zu bytes has a pointer without a tag", heap->number,
             block->bytes);
    for (size_t at = 0; at < block->bytes; at += GRANULE_BYTES) {
        unsigned found = load_tag(block->pointer + at);
        if (found != tag)
            fail("thread=%u block of %zu bytes at %p, offset %#zx: allocation tag: expected %#x "
                 "got %#x",
                 heap->number, block->bytes, (void *)block->pointer, at, tag, found);
    }
}

static void check_content(const struct heap *heap, const struct block *block, size_t bytes) {
    for (size_t at = 0; at < bytes; at += WORD_BYTES) {
        uint64_t word = mix(block->seed + at);
        if (memcmp(block->pointer + at, &word, word_bytes(bytes, at)))
            fail("thread=%u block of %zu bytes at %p, offset %#zx: its content is wrong",
                 heap->number, block->bytes, (void *)block->pointer, at);
    }
}

static void check(struct heap *heap, const struct block *block) {
    check_tags(heap, block);
    check_content(heap, block, block->bytes);
    heap->counts.checked++;
}

void check_all(struct heap *heap) {
    for (uint64_t number = 0; number < knobs.blocks; number++)
        check(heap, &heap->blocks[number]);
}

static bool take(struct heap *heap, struct block *block) {
    block->bytes = draw_bytes(heap);
    block->pointer = malloc(block->bytes);
    if (!block->pointer)
        return false;
    heap->counts.allocated++;
    fill(heap, block);
    return true;
}

bool fill_heap(struct heap *heap) {
    heap->blocks = calloc(knobs.blocks, sizeof *heap->blocks);
    if (!heap->blocks)
        return false;
    for (uint64_t number = 0; number < knobs.blocks; number++)
        if (!take(heap, &heap->blocks[number]))
            return false;
    return true;
}

/* The library moves a block, or changes its end; what fits of its content stays. */
static void resize(struct heap *heap, struct block *block) {
    size_t before = block->bytes, after = draw_bytes(heap);
    uint8_t *moved = realloc(block->pointer, after);
    if (!moved)
        fail("thread=%u no memory for %zu bytes", heap->number, after);
    block->pointer = moved;
    block->bytes = after;
    check_tags(heap, block);
    check_content(heap, block, before < after ? before : after);
    fill(heap, block);
}

void turn_over(struct heap *heap) {
    struct block *block = &heap->blocks[draw(heap) % knobs.blocks];
    check(heap, block);
    switch (draw(heap) % 4) {
    case 0:
        resize(heap, block);
        break;
    case 1:
        free(block->pointer);
        if (!take(heap, block))
            fail("thread=%u no memory for %zu bytes", heap->number, block->bytes);
        break;
    default:
        break;
    }
}
