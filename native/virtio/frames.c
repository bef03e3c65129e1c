/* Ethernet frames between a network card's queues and a row of them, each behind its length (be32),
 * as QEMU's stream sockets have them: many at a time. */
#include "tagalong.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define LENGTH_BYTES 4
#define HEADER_BYTES 12    /* struct virtio_net_hdr (section 5.1.6), with num_buffers */
#define BUFFERS_AT 10      /* of num_buffers in it */
#define MOST_BUFFERS 64    /* that one frame is spread over */

static uint32_t load_length(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static void store_length(uint8_t *at, uint32_t length)
{
    for (int i = 0; i < LENGTH_BYTES; i++)
        at[i] = (uint8_t)(length >> (24 - 8 * i));
}

static int is_frame(uint64_t length)
{
    return length >= TA_FRAME_LEAST_BYTES && length <= TA_FRAME_MOST_BYTES;
}

size_t ta_frames_whole(const uint8_t *data, size_t bytes, int64_t *wrong)
{
    size_t at = 0;
    *wrong = -1;
    while (bytes - at >= LENGTH_BYTES) {
        uint32_t length = load_length(data + at);
        if (!is_frame(length)) {
            *wrong = length;
            break;
        }
        if (bytes - at - LENGTH_BYTES < length)
            break;
        at += LENGTH_BYTES + length;
    }
    return at;
}

int64_t ta_frames_gather(const struct ta_chain *chains, size_t count,
                         const struct ta_buffer *buffers, uint8_t *frames, size_t room,
                         size_t *bytes)
{
    size_t at = 0, done = 0;
    for (; done < count; done++) {
        const struct ta_chain *chain = &chains[done];
        if (chain->writable || chain->readable_bytes < HEADER_BYTES) {
            if (done == 0)
                return -1;
            break; /* after those before it: the next call meets it first */
        }
        uint64_t length = chain->readable_bytes - HEADER_BYTES;
        if (!is_frame(length))
            continue; /* dropped */
        if (room - at < LENGTH_BYTES + length)
            break;
        store_length(frames + at, (uint32_t)length);
        ta_buffers_read(buffers + chain->first, chain->readable, HEADER_BYTES, length,
                        frames + at + LENGTH_BYTES);
        at += LENGTH_BYTES + length;
    }
    *bytes = at;
    return (int64_t)done;
}

/* How many of `count` chains a frame needs; 0: it is dropped; -1: more than there are. */
static int64_t chains_for(const struct ta_chain *chains, size_t count, uint64_t needed,
                          uint32_t is_merged)
{
    size_t most = is_merged ? MOST_BUFFERS : 1;
    uint64_t space = 0;
    for (size_t i = 0; i < most; i++) {
        if (i == count)
            return -1;
        space += chains[i].writable_bytes;
        if (space >= needed)
            return (int64_t)i + 1;
    }
    return 0;
}

/* Stores header and frame to the first of `chains`, and notes what went to each. */
static void store_frame(const uint8_t *frame, uint64_t length, const struct ta_chain *chains,
                        size_t count, const struct ta_buffer *buffers, uint32_t *written)
{
    uint8_t header[HEADER_BYTES] = {0};
    header[BUFFERS_AT] = (uint8_t)count;
    const uint8_t *source = header;
    uint64_t left = HEADER_BYTES;
    for (size_t i = 0; i < count; i++) {
        const struct ta_buffer *buffer = buffers + chains[i].first + chains[i].readable;
        written[i] = 0;
        for (uint32_t n = 0; n < chains[i].writable; n++, buffer++) {
            uint64_t at = 0;
            while (at < buffer->bytes && left > 0) {
                uint64_t size = buffer->bytes - at < left ? buffer->bytes - at : left;
                memcpy((uint8_t *)(uintptr_t)buffer->address + at, source, size);
                at += size;
                source += size;
                left -= size;
                written[i] += (uint32_t)size;
                if (left == 0 && length > 0) {
                    source = frame;
                    left = length;
                    length = 0;
                }
            }
        }
    }
}

int64_t ta_frames_scatter(const uint8_t *frames, size_t bytes, const struct ta_chain *chains,
                          size_t count, const struct ta_buffer *buffers, uint32_t is_merged,
                          uint32_t *written, size_t *consumed)
{
    size_t at = 0, used = 0;
    while (at < bytes) {
        uint64_t length = load_length(frames + at);
        int64_t needed =
            chains_for(chains + used, count - used, HEADER_BYTES + length, is_merged);
        if (needed < 0)
            break;
        if (needed > 0 && chains[used].writable_bytes < HEADER_BYTES) {
            if (used == 0)
                return -1;
            break; /* after those before it: the next call meets it first */
        }
        if (written != NULL && needed > 0)
            store_frame(frames + at + LENGTH_BYTES, length, chains + used, (size_t)needed, buffers,
                        written + used);
        used += (size_t)needed;
        at += LENGTH_BYTES + length;
    }
    *consumed = at;
    return (int64_t)used;
}

int ta_frames_read_tap(int fd, uint8_t *frames, size_t room, size_t *bytes)
{
    *bytes = 0;
    while (room - *bytes >= LENGTH_BYTES + TA_FRAME_MOST_BYTES) {
        uint8_t *at = frames + *bytes;
        ssize_t got = read(fd, at + LENGTH_BYTES, TA_FRAME_MOST_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno != EAGAIN && *bytes == 0)
            return -errno;
        if (got <= 0)
            break;
        if (!is_frame((uint64_t)got))
            continue;
        store_length(at, (uint32_t)got);
        *bytes += LENGTH_BYTES + (size_t)got;
    }
    return 0;
}

int ta_frames_write_tap(int fd, const uint8_t *frames, size_t bytes, size_t *dropped)
{
    *dropped = 0;
    for (size_t at = 0; at < bytes;) {
        uint32_t length = load_length(frames + at);
        ssize_t done = write(fd, frames + at + LENGTH_BYTES, length);
        if (done < 0 && errno == EINTR)
            continue;
        /* An interface that is down, a queue that is full, or a frame that it cannot take. */
        int is_refused = errno == EAGAIN || errno == EIO || errno == EINVAL || errno == ENOBUFS;
        if (done < 0 && !is_refused)
            return -errno;
        *dropped += done < 0;
        at += LENGTH_BYTES + length;
    }
    return 0;
}
