#pragma once

#include <stddef.h>
#include <stdint.h>

#define PROT_MTE 0x20

struct block {
    volatile char *pointer;
    size_t size;
};

struct allocator {
    void *(*allocate)(size_t size);
    void (*free)(void *pointer);
};

/* A number below `limit`, by the seed. */
uint64_t draw(uint64_t limit);
