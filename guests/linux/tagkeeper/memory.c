/* The tagged memory of a thread: what every granule must be, and how it is changed. */
#include "keeper.h"

#include <stddef.h>
#include <sys/mman.h>

#define PAGED_OUT_BYTES (256 << 10)

enum change { CHANGE_TAG, CHANGE_DATA, CHANGE_BOTH, CHANGE_COUNT };

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 31) * 0x7fb5d329728ea185;
    value = (value ^ value >> 27) * 0x81dadef4bc2dd44d;
    return value ^ value >> 33;
}

/* Neighbouring counts give different tags, so that every change of a tag is one. */
unsigned expected_tag(const struct keeper *keeper, uint32_t granule) {
    uint64_t drawn = mix((uint64_t)keeper->number << 32 | granule);
    return (unsigned)(drawn + keeper->tag_turns[granule]) % TAG_COUNT;
}

static uint64_t expected_data(const struct keeper *keeper, uint32_t granule) {
    uint64_t place = (uint64_t)keeper->number << 32 | granule;
    return mix(place << 8 | keeper->data_turns[granule]);
}

static uint8_t *with_tag(uint8_t *pointer, unsigned tag) {
    return (uint8_t *)((uintptr_t)pointer | (uintptr_t)tag << 56);
}

uint8_t *tagged_pointer(const struct keeper *keeper, uint32_t granule) {
    return with_tag(keeper->memory + (size_t)granule * GRANULE_BYTES,
                    expected_tag(keeper, granule));
}

static unsigned load_tag(const uint8_t *address) {
    uintptr_t pointer = (uintptr_t)address;
    __asm__ volatile("ldg %0, [%0]" : "+r"(pointer) : : "memory");
    return pointer >> 56 & (TAG_COUNT - 1);
}

static void store_tag(uint8_t *pointer) {
    __asm__ volatile("stg %0, [%0]" : : "r"(pointer) : "memory");
}

static void store_data(const struct keeper *keeper, uint32_t granule) {
    volatile uint64_t *words = (volatile uint64_t *)tagged_pointer(keeper, granule);
    uint64_t data = expected_data(keeper, granule);
    words[0] = data;
    words[1] = ~data;
}

static void *map(size_t bytes, int protection) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE | protection,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

bool create_memory(struct keeper *keeper) {
    keeper->granules = (uint32_t)(knobs.mib << 20) / GRANULE_BYTES;
    keeper->memory = map((size_t)keeper->granules * GRANULE_BYTES, PROT_MTE);
    keeper->tag_turns = map(keeper->granules, 0);
    keeper->data_turns = map(keeper->granules, 0);
    if (!keeper->memory || !keeper->tag_turns || !keeper->data_turns)
        return false;
    for (uint32_t granule = 0; granule < keeper->granules; granule++) {
        store_tag(tagged_pointer(keeper, granule));
        store_data(keeper, granule);
    }
    return true;
}

static bool is_tag_wrong(const struct keeper *keeper, uint32_t granule) {
    const uint8_t *address = keeper->memory + (size_t)granule * GRANULE_BYTES;
    return load_tag(address) != expected_tag(keeper, granule);
}

/* Ends the program. How many more tags are wrong tells a lost page from lost tags. */
__attribute__((noreturn)) static void fail_at(const struct keeper *keeper, uint32_t granule,
                                              const char *what, uint64_t expected,
                                              uint64_t found) {
    uint32_t wrong = 0;
    for (uint32_t each = 0; each < keeper->granules; each++)
        wrong += is_tag_wrong(keeper, each);
    fail("thread=%u granule=%#x address=%p %s: expected %#llx got %#llx; "
         "%u of %u tags are wrong",
         keeper->number, granule, (void *)(keeper->memory + (size_t)granule * GRANULE_BYTES), what,
         (unsigned long long)expected, (unsigned long long)found, wrong, keeper->granules);
}

static void check_granule(const struct keeper *keeper, uint32_t granule) {
    uint8_t *pointer = tagged_pointer(keeper, granule);
    unsigned tag = expected_tag(keeper, granule);
    uint64_t data = expected_data(keeper, granule);
    unsigned found = load_tag(keeper->memory + (size_t)granule * GRANULE_BYTES);
    if (found != tag)
        fail_at(keeper, granule, "allocation tag", tag, found);
    volatile uint64_t *words = (volatile uint64_t *)pointer;
    if (words[0] != data)
        fail_at(keeper, granule, "first word", data, words[0]);
    if (words[1] != ~data)
        fail_at(keeper, granule, "second word", ~data, words[1]);
}

void check_granules(struct keeper *keeper, uint32_t first, uint32_t count) {
    for (uint32_t granule = first; granule < first + count; granule++)
        check_granule(keeper, granule % keeper->granules);
    keeper->counts.checked += count;
}

void change_granule(struct keeper *keeper, uint32_t granule) {
    check_granule(keeper, granule);
    enum change change = keeper->random % CHANGE_COUNT;
    if (change != CHANGE_DATA) {
        keeper->tag_turns[granule]++;
        store_tag(tagged_pointer(keeper, granule));
    }
    if (change != CHANGE_TAG) {
        keeper->data_turns[granule]++;
        store_data(keeper, granule);
    }
    keeper->counts.changed++;
}

uint32_t draw_granule(struct keeper *keeper) {
    keeper->random = mix(keeper->random + 0x9e3779b97f4a7c15);
    return (uint32_t)(keeper->random >> 32) % keeper->granules;
}

/* Advice: a kernel without swap space ignores it, and no content may change in any case. */
void page_out(struct keeper *keeper) {
    size_t bytes = (size_t)keeper->granules * GRANULE_BYTES;
    size_t start = (size_t)draw_granule(keeper) * GRANULE_BYTES / PAGED_OUT_BYTES * PAGED_OUT_BYTES;
    size_t length = bytes - start < PAGED_OUT_BYTES ? bytes - start : PAGED_OUT_BYTES;
    madvise(keeper->memory + start, length, MADV_PAGEOUT);
}
