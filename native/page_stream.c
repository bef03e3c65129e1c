/* The data of a batch between guest RAM and a socket.
 *
 * A migration's cost is memory traffic. The kernel's copy to or from the socket brings each byte
 * into the processor's cache once; a checksum made in a second pass, from Python, would read all
 * memory again. So this loop hashes a window of pages right before the kernel sends it, or right
 * after the kernel has received it, while the window is still in the second-level cache. That
 * order is why a batch's seal comes behind its data on the wire, and why the seal is made of one
 * digest per page: the source keeps them to see later that only tags of a page have changed.
 *
 * What is sent must be what was hashed. A page of a running guest can change between the two, so
 * it is first copied into a stage that fits into the cache, then hashed and sent from there. A
 * paused guest's pages need no copy. A receiver needs none either: no other thread writes there.
 *
 * The caller owns progress: two cursors count what was moved and what was hashed, and a call that
 * ran out of time can be repeated. Python looks at cancellation and deadlines between two calls. */
#define _GNU_SOURCE
#include "tagalong.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

/* Hashed ahead of the send, or received at once: fits into a second-level cache. */
#define WINDOW_BYTES (512 << 10)
#define MAX_IOVECS 128
#define PORTION_BYTES (1 << 20)

static int64_t now_ms(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* 1: ready before the deadline; 0: not, or it has passed; or -errno. So a peer that always has one
 * more byte, or a record of TLS without any, keeps the caller from no look at its own limits. */
static int wait_for(int fd, short event, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - now_ms();
        if (left <= 0)
            return 0;
        struct pollfd poller = {.fd = fd, .events = event};
        int ready = poll(&poller, 1, (int)left);
        if (ready >= 0)
            return ready;
        if (errno != EINTR)
            return -errno;
    }
}

static void advance(const struct ta_page_stream *stream, struct ta_page_cursor *cursor,
                    uint64_t bytes)
{
    cursor->total += bytes;
    cursor->offset += bytes;
    while (cursor->segment < stream->segment_count &&
           cursor->offset >= stream->segments[cursor->segment].bytes) {
        cursor->offset -= stream->segments[cursor->segment].bytes;
        cursor->segment++;
    }
}

static uint8_t *memory_at(const struct ta_page_stream *stream, const struct ta_page_cursor *cursor)
{
    return (uint8_t *)(uintptr_t)stream->segments[cursor->segment].address + cursor->offset;
}

/* Fills `vectors` with at most `limit` bytes from the cursor on; returns how many vectors. */
static size_t vectors_at(const struct ta_page_stream *stream, struct ta_page_cursor cursor,
                         uint64_t limit, struct iovec *vectors)
{
    size_t count = 0;
    while (limit > 0 && count < MAX_IOVECS && cursor.segment < stream->segment_count) {
        uint64_t size = stream->segments[cursor.segment].bytes - cursor.offset;
        size = size < limit ? size : limit;
        vectors[count].iov_base = memory_at(stream, &cursor);
        vectors[count++].iov_len = size;
        limit -= size;
        advance(stream, &cursor, size);
    }
    return count;
}

/* Hashes whole pages from stream->hashed on, as far as `end`; with a stage, copies of them. */
static void hash_until(struct ta_page_stream *stream, uint64_t end)
{
    if (stream->digests == NULL)
        return;
    struct ta_page_cursor *at = &stream->hashed;
    uint64_t page = stream->page_bytes;
    for (uint8_t *copy = stream->stage; at->total + page <= end;) {
        uint64_t size = stream->segments[at->segment].bytes - at->offset;
        size = size < end - at->total ? size : end - at->total;
        size -= size % page;
        const uint8_t *bytes = memory_at(stream, at);
        if (copy != NULL) {
            memcpy(copy, bytes, size);
            bytes = copy;
            copy += size;
        }
        ta_hash_pages(bytes, size / page, page, stream->digests + at->total / page);
        advance(stream, at, size);
    }
}

/* Prepares the next window: as many bytes as the stage has, or WINDOW_BYTES, in whole pages. */
static void open_window(struct ta_page_stream *stream)
{
    uint64_t limit = stream->stage != NULL ? stream->stage_bytes : WINDOW_BYTES;
    uint64_t left = stream->total_bytes - stream->moved.total;
    hash_until(stream, stream->moved.total + (left < limit ? left : limit));
}

/* Returns how many bytes have left, or -errno. */
static int64_t send_pieces(const struct ta_page_stream *stream, struct msghdr *message)
{
    if (stream->tls != NULL)
        return ta_tls_send(stream->tls, message->msg_iov, message->msg_iovlen);
    ssize_t sent = sendmsg(stream->fd, message, MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? -errno : sent;
}

static int64_t send_window(const struct ta_page_stream *stream)
{
    struct iovec vectors[MAX_IOVECS];
    struct msghdr message = {.msg_iov = vectors};
    uint64_t size = stream->hashed.total - stream->moved.total;
    if (stream->stage != NULL) {
        /* The window is the last copy, and ends where hashing ended. */
        vectors[0].iov_base = stream->stage + stream->staged_sent;
        vectors[0].iov_len = size;
        message.msg_iovlen = 1;
    } else {
        message.msg_iovlen = vectors_at(stream, stream->moved, size, vectors);
    }
    return send_pieces(stream, &message);
}

int ta_send_pages(struct ta_page_stream *stream, uint32_t timeout_ms)
{
    int64_t deadline = now_ms() + timeout_ms;
    while (stream->moved.total < stream->total_bytes) {
        if (stream->hashed.total == stream->moved.total) {
            open_window(stream);
            stream->staged_sent = 0;
        }
        int64_t sent = send_window(stream);
        if (sent > 0) {
            stream->staged_sent += (uint64_t)sent;
            advance(stream, &stream->moved, (uint64_t)sent);
            continue;
        }
        if (sent < 0 && sent != -EAGAIN && sent != -EINTR)
            return (int)sent;
        int ready = wait_for(stream->fd, POLLOUT, deadline);
        if (ready <= 0)
            return ready;
    }
    return 1;
}

/* What TLS may hold back of a record that is not whole yet, and more. */
#define HELD_BYTES (32 << 10)

/* Makes the kernel wake this thread for a large portion, not for each packet. Never for more than
 * is still to come, or the last wait would not end; and for less than the receive window
 * (migrate/transport/connector.py), or the sender would wait for this reader and this reader for
 * the sender. */
static void ask_for(int fd, uint64_t bytes)
{
    int mark = bytes < PORTION_BYTES ? (int)bytes : PORTION_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &mark, sizeof mark);
}

/* Returns how many bytes of the segments are still to come out of the socket, or fewer. */
static uint64_t still_to_come(const struct ta_page_stream *stream)
{
    uint64_t bytes = stream->total_bytes - stream->moved.total;
    if (stream->tls == NULL)
        return bytes;
    return bytes > HELD_BYTES ? bytes - HELD_BYTES : 1;
}

/* Returns how many bytes were received, 0 at the peer's end, or -errno. */
static int64_t receive_pieces(const struct ta_page_stream *stream, struct msghdr *message)
{
    if (stream->tls == NULL) {
        ssize_t got = recvmsg(stream->fd, message, MSG_DONTWAIT);
        return got < 0 ? -errno : got;
    }
    int64_t total = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        const struct iovec *piece = &message->msg_iov[i];
        int64_t got = ta_tls_receive(stream->tls, piece->iov_base, piece->iov_len);
        total += got > 0 ? got : 0;
        if (got < (int64_t)piece->iov_len)
            return total > 0 ? total : got;
    }
    return total;
}

static int receive_until(struct ta_page_stream *stream, int64_t deadline)
{
    while (stream->moved.total < stream->total_bytes) {
        struct iovec vectors[MAX_IOVECS];
        struct msghdr message = {.msg_iov = vectors};
        message.msg_iovlen = vectors_at(stream, stream->moved, WINDOW_BYTES, vectors);
        int64_t got = receive_pieces(stream, &message);
        if (got == 0)
            return -ENODATA;
        if (got > 0) {
            advance(stream, &stream->moved, (uint64_t)got);
            hash_until(stream, stream->moved.total);
            continue;
        }
        if (got != -EAGAIN && got != -EINTR)
            return (int)got;
        ask_for(stream->fd, still_to_come(stream));
        int ready = wait_for(stream->fd, POLLIN, deadline);
        if (stream->follows_packets)
            ta_follow_packets(stream->fd);
        if (ready <= 0)
            return ready;
    }
    return 1;
}

int ta_receive_pages(struct ta_page_stream *stream, uint32_t timeout_ms)
{
    int result = receive_until(stream, now_ms() + timeout_ms);
    ask_for(stream->fd, 1);
    return result;
}
