/* Rows of buffers in guest RAM, as descriptor chains name them: copied, cut, moved to and from a
 * file, and marked in a dirty log, a row at a time. */
#define _GNU_SOURCE /* preadv, pwritev */
#include "tagalong.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#define MOST_VECTORS 1024 /* IOV_MAX of Linux */

static uint8_t *start_of(const struct ta_buffer *buffer)
{
    return (uint8_t *)(uintptr_t)buffer->address;
}

/* Returns what of one buffer is in a range of the row, empty if the range begins behind it; `start`
 * and `bytes`, the range from this buffer on, become those from the next one on. */
static struct ta_buffer next_part(const struct ta_buffer *buffer, uint64_t *start, uint64_t *bytes)
{
    if (*start >= buffer->bytes) {
        *start -= buffer->bytes;
        return (struct ta_buffer){buffer->address, 0};
    }
    uint64_t left = buffer->bytes - *start;
    struct ta_buffer part = {buffer->address + *start, left < *bytes ? left : *bytes};
    *start = 0;
    *bytes -= part.bytes;
    return part;
}

size_t ta_buffers_part(const struct ta_buffer *buffers, size_t count, uint64_t start,
                       uint64_t bytes, struct ta_buffer *part)
{
    size_t found = 0;
    for (size_t i = 0; i < count && bytes > 0; i++) {
        struct ta_buffer next = next_part(&buffers[i], &start, &bytes);
        if (next.bytes > 0)
            part[found++] = next;
    }
    return found;
}

void ta_buffers_read(const struct ta_buffer *buffers, size_t count, uint64_t start,
                     uint64_t bytes, uint8_t *target)
{
    for (size_t i = 0; i < count && bytes > 0; i++) {
        struct ta_buffer next = next_part(&buffers[i], &start, &bytes);
        memcpy(target, start_of(&next), next.bytes);
        target += next.bytes;
    }
}

void ta_buffers_write(const struct ta_buffer *buffers, size_t count, const uint8_t *source,
                      uint64_t bytes)
{
    for (size_t i = 0; i < count && bytes > 0; i++) {
        uint64_t size = buffers[i].bytes < bytes ? buffers[i].bytes : bytes;
        memcpy(start_of(&buffers[i]), source, size);
        source += size;
        bytes -= size;
    }
}

/* As many of the buffers as one system call takes, the first of them from byte `offset` on. */
static int vectors_of(const struct ta_buffer *buffers, size_t count, uint64_t offset,
                      struct iovec *vectors)
{
    size_t most = count < MOST_VECTORS ? count : MOST_VECTORS;
    for (size_t i = 0; i < most; i++, offset = 0)
        vectors[i] = (struct iovec){start_of(&buffers[i]) + offset, buffers[i].bytes - offset};
    return (int)most;
}

int ta_buffers_transfer(int fd, const struct ta_buffer *buffers, size_t count, uint64_t position,
                        uint32_t is_write)
{
    struct iovec vectors[MOST_VECTORS];
    uint64_t offset = 0;
    while (count > 0) {
        int most = vectors_of(buffers, count, offset, vectors);
        ssize_t done = is_write ? pwritev(fd, vectors, most, (off_t)position)
                                : preadv(fd, vectors, most, (off_t)position);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return done < 0 ? -errno : -ENODATA;
        position += (uint64_t)done;
        for (offset += (uint64_t)done; count > 0 && offset >= buffers->bytes; count--)
            offset -= buffers++->bytes;
    }
    return 0;
}

void ta_buffers_mark(const struct ta_buffer *buffers, size_t count, uint64_t address,
                     uint64_t bytes, uint64_t page_bytes, uint64_t *bitmap)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t offset = buffers[i].address - address;
        if (offset >= bytes || buffers[i].bytes == 0)
            continue; /* in another region */
        uint64_t last = (offset + buffers[i].bytes - 1) / page_bytes;
        for (uint64_t page = offset / page_bytes; page <= last; page++)
            bitmap[page / 64] |= UINT64_C(1) << page % 64;
    }
}
