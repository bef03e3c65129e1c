/* System calls for many places at once: what Python would spend most of its time on when the
 * pages of a batch are scattered. */
#define _XOPEN_SOURCE 700
#include "tagalong.h"

#include <errno.h>
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
