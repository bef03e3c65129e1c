/* Objects with tags of their own, as an allocator hands them out: stored to and loaded from by
 * pointers with these tags, and given other tags now and then. */
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "work.h"

#define BYTES 0x10000
#define GRANULE 16
#define WORDS 8 /* of an object */
#define OBJECT (8 * WORDS)
#define OBJECTS (BYTES / OBJECT)
#define PASSES 32 /* between two changes of the tags */
#define TAG_MASK 0xfffeUL /* all but 0 */

#ifndef PROT_MTE
#define PROT_MTE 0x20
#endif

static uint64_t *objects[OBJECTS];

static uint64_t *with_new_tag(uint64_t *object) {
    __asm__ volatile("irg %0, %0" : "+r"(object));
    for (uint8_t *granule = (uint8_t *)object; granule < (uint8_t *)object + OBJECT;
         granule += GRANULE)
        __asm__ volatile("stg %0, [%0]" : : "r"(granule) : "memory");
    return object;
}

static uint64_t pass_over(uint64_t value) {
    for (unsigned i = 0; i < OBJECTS; i++) {
        uint64_t *object = objects[i];
        for (unsigned word = 0; word < WORDS; word++) {
            object[word] += value;
            value = object[word] ^ value >> 3;
        }
    }
    return value;
}

uint64_t work_tags(uint64_t rounds) {
    uint64_t value = 1;
    unsigned long mode = PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | TAG_MASK << PR_MTE_TAG_SHIFT;
    if (prctl(PR_SET_TAGGED_ADDR_CTRL, mode, 0, 0, 0))
        fail("workload: prctl(PR_SET_TAGGED_ADDR_CTRL)");
    uint8_t *memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE | PROT_MTE,
                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("workload: mmap with PROT_MTE");
    for (; rounds; rounds--) {
        for (unsigned i = 0; i < OBJECTS; i++)
            objects[i] = with_new_tag((uint64_t *)(memory + i * OBJECT));
        for (unsigned pass = 0; pass < PASSES; pass++)
            value = pass_over(value);
    }
    return value;
}
