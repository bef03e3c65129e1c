#include "simple.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "mishap.h"

#define ARENA (1UL << 20)
#define GRANULE 16UL
#define TAGS (15UL << 56)

static char *arena;
static size_t used;
static uint16_t granules_at[ARENA / GRANULE];  /* size of the block that starts there */
static uint32_t next_free[ARENA / GRANULE];    /* number of the next one + 1 */
static uint32_t first_free[ARENA / GRANULE];   /* by size in granules */

static char *retag(char *plain, size_t granules, uint64_t excluded)
{
    uint64_t pointer;
    __asm__ volatile("irg %0, %1, %2" : "=r"(pointer) : "r"(plain), "r"(excluded));
    for (size_t at = 0; at < granules * GRANULE; at += GRANULE)
        __asm__ volatile("stg %0, [%0]" : : "r"(pointer + at) : "memory");
    return (char *)pointer;
}

void *simple_allocate(size_t size)
{
    if (!arena)
        arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE | PROT_MTE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    size_t granules = (size + GRANULE - 1) / GRANULE;
    uint32_t free_number = first_free[granules];
    size_t number = free_number ? free_number - 1 : used;
    if (free_number)
        first_free[granules] = next_free[number];
    else if ((used + granules) * GRANULE > ARENA)
        return NULL;
    else
        used += granules;
    granules_at[number] = (uint16_t)granules;
    return retag(arena + number * GRANULE, granules, 1);
}

void simple_free(void *pointer)
{
    uintptr_t old = (uintptr_t)pointer;
    char *plain = (char *)(old & ~TAGS);
    size_t number = (size_t)(plain - arena) / GRANULE;
    volatile char *look = pointer;
    (void)*look; /* the check that finds a double free */
    retag(plain, granules_at[number], 1UL | 1UL << (old >> 56 & 15));
    next_free[number] = first_free[granules_at[number]];
    first_free[granules_at[number]] = (uint32_t)number + 1;
}
