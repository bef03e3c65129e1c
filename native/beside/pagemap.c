/* What the VMM's own page tables say of the guest's memory, by /proc/self. */
#define _GNU_SOURCE
#include "beside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define WORD_BITS 64

/* Whether the mapping at `hva` is shared, by /proc/self/maps: only then pagemap cannot tell which
 * pages hold something. What cannot be read counts as shared: that is always right. */
bool tb_is_shared_mapping(uint64_t hva) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    bool shared = true;
    while (maps && fgets(line, sizeof(line), maps)) {
        unsigned long start, end;
        char modes[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, modes) == 3 && start <= hva && hva < end) {
            shared = modes[3] != 'p';
            break;
        }
    }
    if (maps)
        fclose(maps);
    return shared;
}

#define PAGEMAP_PRESENT (1UL << 63)
#define PAGEMAP_SWAPPED (1UL << 62)
#define PAGEMAP_AT_ONCE 4096

int tb_populated_private(uint64_t hva, uint64_t pages, uint64_t *bitmap) {
    static uint64_t entries[PAGEMAP_AT_ONCE]; /* the service has one thread */
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return -errno;
    uint64_t base = hva / tb_page_bytes();
    int status = 0;
    for (uint64_t at = 0; at < pages && status == 0;) {
        uint64_t count = pages - at;
        if (count > PAGEMAP_AT_ONCE)
            count = PAGEMAP_AT_ONCE;
        ssize_t size = pread(pagemap, entries, count * 8, (off_t)((base + at) * 8));
        if (size <= 0 || size % 8)
            status = size < 0 ? -errno : -EIO;
        for (uint64_t i = 0; status == 0 && i < (uint64_t)size / 8; i++)
            if (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED))
                bitmap[(at + i) / WORD_BITS] |= 1UL << ((at + i) % WORD_BITS);
        at += status == 0 ? (uint64_t)size / 8 : 0;
    }
    close(pagemap);
    return status;
}
