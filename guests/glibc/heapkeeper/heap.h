/* heapkeeper: a program for Linux whose heap is tagged by the GNU C library itself, and which
 * verifies it for ever. Run it with GLIBC_TUNABLES=glibc.mem.tagging=3 (1: asynchronous checks).
 *
 * Each thread has blocks of malloc whose content it knows. In each turn it verifies one of them:
 * its pointer has a tag, each of its granules has the same, and the content is right; then it
 * changes its size, or gives it back and takes another. Once a second it reads a block that it has
 * given back, and behind the end of one that it has: each must be a tag check fault. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>

#ifndef PR_SET_TAGGED_ADDR_CTRL
#define PR_SET_TAGGED_ADDR_CTRL 55
#define PR_GET_TAGGED_ADDR_CTRL 56
#define PR_TAGGED_ADDR_ENABLE 1UL
#endif
#ifndef PR_MTE_TCF_SYNC
#define PR_MTE_TCF_SYNC (1UL << 1)
#define PR_MTE_TCF_ASYNC (1UL << 2)
#endif

#define GRANULE_BYTES 16
#define TAG_SHIFT 56
#define TAG_COUNT 16

struct block {
    uint8_t *pointer;
    size_t bytes;
    uint64_t seed; /* of its content */
};

struct heap {
    unsigned number;
    uint64_t random;
    struct block *blocks;
    struct {
        _Atomic uint64_t checked, allocated, faults, children;
    } counts;
};

struct knobs {
    uint64_t threads, blocks, forks, seconds;
};

extern struct knobs knobs;

bool read_knobs(int count, char **words);

/* Fill and verify blocks; a wrong granule or byte ends the program. */
bool fill_heap(struct heap *heap);
void check_all(struct heap *heap);
void turn_over(struct heap *heap);
uint64_t draw(struct heap *heap);

/* Tag check faults on purpose. */
bool catch_faults(void);
void provoke_faults(struct heap *heap);

__attribute__((noreturn, format(printf, 1, 2))) void fail(const char *format, ...);

static inline unsigned tag_of_pointer(const void *pointer) {
    return (uintptr_t)pointer >> TAG_SHIFT & (TAG_COUNT - 1);
}

static inline unsigned load_tag(const uint8_t *address) {
    uintptr_t pointer = (uintptr_t)address;
    __asm__ volatile("ldg %0, [%0]" : "+r"(pointer) : : "memory");
    return tag_of_pointer((void *)pointer);
}
