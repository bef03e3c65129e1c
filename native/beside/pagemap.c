/* Which of the guest's pages are there: of private memory by the VMM's page tables, of shared memory
 * by the holes of its file. All by /proc/self. */
#define _GNU_SOURCE
#include "beside.h"
#include "bitmaps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct mapping {
    unsigned long start, end, offset, inode;
    unsigned major, minor;
    bool is_shared;
};

/* The mapping at `hva`, by /proc/self/maps; false if it cannot be read. */
static bool find_mapping(uint64_t hva, struct mapping *found) {
    FILE *maps = fopen("/proc/self/maps", "re");
    char line[512];
    bool is_found = false;
    while (maps && !is_found && fgets(line, sizeof(line), maps)) {
        char modes[5];
        if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu", &found->start, &found->end, modes,
                   &found->offset, &found->major, &found->minor, &found->inode) != 7)
            continue;
        found->is_shared = modes[3] != 'p';
        is_found = found->start <= hva && hva < found->end;
    }
    if (maps)
        fclose(maps);
    return is_found;
}

/* What cannot be read counts as shared: that is always right. */
bool tb_is_shared_mapping(uint64_t hva) {
    struct mapping found;
    return !find_mapping(hva, &found) || found.is_shared;
}

#define PAGEMAP_PRESENT (1UL << 63)
#define PAGEMAP_SWAPPED (1UL << 62)
#define WORDS_AT_ONCE 64

/* Find the next words that have bits set, at most WORDS_AT_ONCE of them, from *first on. */
static uint64_t next_words(const uint64_t *bitmap, uint64_t words, uint64_t *first) {
    uint64_t at = *first;
    while (at < words && !bitmap[at])
        at++;
    *first = at;
    while (at < words && at - *first < WORDS_AT_ONCE && bitmap[at])
        at++;
    return at - *first;
}

/* Clear the bits of the pages from `hva` on that are not there, of private memory. Looks only where
 * bits are set. */
static void keep_private(uint64_t hva, uint64_t pages, uint64_t *bitmap) {
    static uint64_t entries[WORDS_AT_ONCE * WORD_BITS]; /* the service has one thread */
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0)
        return;
    uint64_t base = hva / tb_page_bytes(), words = words_of(pages), count;
    for (uint64_t at = 0; (count = next_words(bitmap, words, &at)); at += count) {
        uint64_t wanted = count * WORD_BITS;
        if (wanted > pages - at * WORD_BITS)
            wanted = pages - at * WORD_BITS;
        off_t place = (off_t)((base + at * WORD_BITS) * 8);
        if (pread(pagemap, entries, wanted * 8, place) != (ssize_t)(wanted * 8))
            break;
        for (uint64_t i = 0; i < wanted; i++)
            if (!(entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)))
                bitmap[at + i / WORD_BITS] &= ~(1UL << (i % WORD_BITS));
    }
    close(pagemap);
}

/* A descriptor of our own of the mapped file, which this process has open, too; -1 if not. */
static int open_mapped(const struct mapping *mapping) {
    DIR *folder = opendir("/proc/self/fd");
    int result = -1;
    for (struct dirent *entry; folder && result < 0 && (entry = readdir(folder));) {
        struct stat about;
        if (fstatat(dirfd(folder), entry->d_name, &about, 0) == 0 && S_ISREG(about.st_mode) &&
            about.st_ino == mapping->inode && major(about.st_dev) == mapping->major &&
            minor(about.st_dev) == mapping->minor)
            /* Opened anew: the VMM's descriptor keeps its place in the file. */
            result = openat(dirfd(folder), entry->d_name, O_RDONLY | O_CLOEXEC);
    }
    if (folder)
        closedir(folder);
    return result;
}

/* Set the bits of the pages from `hva` on that are there, of shared memory; false if that cannot be
 * found out. Holes of a file in memory hold nothing, and reading them through a mapping would fill
 * them. */
static bool find_shared(uint64_t hva, uint64_t pages, uint64_t *bitmap) {
    struct mapping mapping;
    uint64_t page = tb_page_bytes();
    if (!find_mapping(hva, &mapping) || hva + pages * page > mapping.end)
        return false;
    int fd = open_mapped(&mapping);
    if (fd < 0)
        return false;
    off_t start = (off_t)(mapping.offset + (hva - mapping.start));
    off_t end = start + (off_t)(pages * page), low = start, high;
    bool is_known = true;
    while (low < end && (low = lseek(fd, low, SEEK_DATA)) >= 0 && low < end) {
        high = lseek(fd, low, SEEK_HOLE);
        if (high <= low) { /* it was cut short meanwhile */
            is_known = false;
            break;
        }
        high = high < end ? high : end;
        for (uint64_t at = (uint64_t)(low - start) / page; at * page < (uint64_t)(high - start);
             at++)
            set_bit(bitmap, at);
        low = high;
    }
    if (low < 0 && errno != ENXIO) /* ENXIO: nothing but a hole follows */
        is_known = false;
    close(fd);
    return is_known;
}

void tb_keep_populated(uint64_t hva, uint64_t pages, bool is_shared, uint64_t *bitmap) {
    if (!is_shared) {
        keep_private(hva, pages, bitmap);
        return;
    }
    uint64_t words = words_of(pages), *there = new_bitmap(pages, 0);
    if (there && find_shared(hva, pages, there))
        for (uint64_t i = 0; i < words; i++)
            bitmap[i] &= there[i];
    free(there);
}
