/* System calls for many places at once: what Python would spend most of its time on when the
 * pages of a batch are scattered. */
#define _GNU_SOURCE /* SEEK_DATA, SEEK_HOLE */
#include "tagalong.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* 0, or -errno; a file that ends early is EIO. */
static int read_whole(int fd, uint8_t *target, size_t size, off_t offset)
{
    while (size > 0) {
        ssize_t count = pread(fd, target, size, offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return count < 0 ? -errno : -EIO;
        target += count;
        offset += count;
        size -= (size_t)count;
    }
    return 0;
}

int ta_read_pages(int fd, uint64_t page_bytes, const int64_t *pages, size_t count,
                  uint8_t *target)
{
    size_t at = 0;
    while (at < count) {
        size_t run = 1;
        while (at + run < count && pages[at + run] == pages[at] + (int64_t)run)
            run++;
        int error = read_whole(fd, target, run * page_bytes,
                               (off_t)((uint64_t)pages[at] * page_bytes));
        if (error)
            return error;
        target += run * page_bytes;
        at += run;
    }
    return 0;
}

/* 0, or -errno. */
static int write_whole(int fd, const uint8_t *source, uint64_t size, uint64_t offset)
{
    while (size > 0) {
        ssize_t count = pwrite(fd, source, size, (off_t)offset);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return -errno;
        source += count;
        offset += (uint64_t)count;
        size -= (uint64_t)count;
    }
    return 0;
}

int ta_write_ranges(int fd, const struct ta_file_write *writes, size_t count,
                    const uint8_t *source, uint64_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        const struct ta_file_write *write = &writes[*done];
        int error = write_whole(fd, source + write->source, write->size, write->offset);
        if (error)
            return error;
    }
    return 0;
}

/* Copied and hashed at once: fits into a first-level cache with its copy. */
#define COPY_BYTES (16 << 10)

void ta_copy_and_hash(uint8_t *copy, const uint8_t *pages, size_t count, size_t page_bytes,
                      uint64_t *digests)
{
    size_t step = page_bytes < COPY_BYTES ? COPY_BYTES / page_bytes : 1;
    for (size_t i = 0; i < count; i += step) {
        size_t some = count - i < step ? count - i : step;
        memcpy(copy + i * page_bytes, pages + i * page_bytes, some * page_bytes);
        ta_hash_pages(copy + i * page_bytes, some, page_bytes, digests + i);
    }
}

int64_t ta_file_extents(int fd, uint64_t from, uint64_t *extents, size_t most)
{
    for (size_t count = 0; count < most; count++) {
        off_t start = lseek(fd, (off_t)from, SEEK_DATA);
        if (start < 0 && errno == ENXIO)
            return (int64_t)count;
        off_t stop = start < 0 ? -1 : lseek(fd, start, SEEK_HOLE);
        if (stop < 0)
            return -errno;
        extents[2 * count] = (uint64_t)start;
        extents[2 * count + 1] = from = (uint64_t)stop;
    }
    return (int64_t)most;
}

size_t ta_ioctl_each(int fd, uint64_t request, uint8_t *arguments, size_t argument_bytes,
                     size_t count, int32_t *results)
{
    for (size_t i = 0; i < count; i++) {
        int result = ioctl(fd, (unsigned long)request, arguments + i * argument_bytes);
        results[i] = result < 0 ? -errno : result;
        if (result < 0)
            return i;
    }
    return count;
}
