/* Which of the guest's pages are there: of private memory by the VMM's page tables, of shared memory
 * by the holes of its file. All by /proc/self. */
#define _GNU_SOURCE
#include "beside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define WORD_BITS 64

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

/* Holes of a file in memory hold nothing, and reading them through a mapping would fill them. */
int tb_populated_shared(uint64_t hva, uint64_t pages, uint64_t *bitmap) {
    struct mapping mapping;
    uint64_t page = tb_page_bytes();
    if (!find_mapping(hva, &mapping) || hva + pages * page > mapping.end)
        return -ENOENT;
    int fd = open_mapped(&mapping);
    if (fd < 0)
        return -ENOENT;
    off_t start = (off_t)(mapping.offset + (hva - mapping.start));
    off_t end = start + (off_t)(pages * page), low = start, high;
    int status = 0;
    while (low < end && (low = lseek(fd, low, SEEK_DATA)) >= 0 && low < end) {
        high = lseek(fd, low, SEEK_HOLE);
        if (high <= low) { /* it was cut short meanwhile */
            status = -EIO;
            break;
        }
        high = high < end ? high : end;
        for (uint64_t at = (uint64_t)(low - start) / page; at * page < (uint64_t)(high - start);
             at++)
            bitmap[at / WORD_BITS] |= 1UL << (at % WORD_BITS);
        low = high;
    }
    if (low < 0 && errno != ENXIO) /* ENXIO: nothing but a hole follows */
        status = -errno;
    close(fd);
    return status;
}
