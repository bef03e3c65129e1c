/* A tagging allocator without headers: blocks side by side, a free list for each size. */
#pragma once

#include <stddef.h>

void *simple_allocate(size_t size);
void simple_free(void *pointer);
