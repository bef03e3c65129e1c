/* Bytes through a TLS connection of OpenSSL, by as few system calls as without TLS.
 *
 * OpenSSL works by records of at most 16 KiB. By itself it makes a system call per record that it
 * sends and two per record that it receives, and Python adds a call of its own. Here a portion of
 * many records is encrypted into memory and leaves in one call, and the caller has told OpenSSL to
 * read ahead (SSL_set_read_ahead). Both portions fit into a second-level cache, and so does what
 * page_stream.c hashes beside them.
 *
 * Nothing here knows the layout of anything of OpenSSL's: the caller passes addresses of functions
 * of that OpenSSL which made the connection. The numbers are those of its headers, which are part
 * of its ABI. */
#include "tagalong.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>

/* openssl/ssl.h and openssl/bio.h */
#define SSL_ERROR_WANT_READ 2
#define SSL_ERROR_SYSCALL 5
#define SSL_ERROR_ZERO_RETURN 6
/* openssl/err.h: ERR_PACK(ERR_LIB_SSL, 0, SSL_R_UNEXPECTED_EOF_WHILE_READING) */
#define UNEXPECTED_EOF (20 << 23 | 294)
#define SSL_KEY_UPDATE_NOT_REQUESTED 0
#define BIO_TYPE_SOURCE_SINK 0x0400
#define BIO_CTRL_FLUSH 11

#define RECORD_BYTES (16 << 10) /* RFC 8446, 5.1 */
#define PORTION_BYTES (16 * RECORD_BYTES)

/* What BIO_new needs, made once: there is one OpenSSL, Python's. Connections begin in several
 * threads at once, so a thread sees `collector` only with all that belongs to it. */
static void *collector;
static void *(*data_of_bio)(void *bio);

/* A BIO's write: appends to what is to leave. */
static int collect(void *bio, const char *bytes, int size)
{
    struct ta_tls *tls = __atomic_load_n(&data_of_bio, __ATOMIC_RELAXED)(bio);
    if (size < 0 || (uint64_t)size > tls->outgoing_bytes - tls->encrypted)
        return -1;
    memcpy(tls->outgoing + tls->encrypted, bytes, (size_t)size);
    tls->encrypted += (uint64_t)size;
    return size;
}

static long control(void *bio, int command, long number, void *argument)
{
    (void)bio, (void)number, (void)argument;
    return command == BIO_CTRL_FLUSH;
}

/* NULL without memory. */
static void *collecting_method(const struct ta_openssl *openssl)
{
    void *known = __atomic_load_n(&collector, __ATOMIC_ACQUIRE);
    if (known != NULL)
        return known;
    void *method = openssl->bio_meth_new(BIO_TYPE_SOURCE_SINK, "portion");
    if (method == NULL)
        return NULL;
    openssl->bio_meth_set_write(method, collect);
    openssl->bio_meth_set_ctrl(method, control);
    __atomic_store_n(&data_of_bio, openssl->bio_get_data, __ATOMIC_RELAXED);
    /* If another thread was faster, its method is used; ours is left, a few words of memory. */
    __atomic_compare_exchange_n(&collector, &known, method, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return known != NULL ? known : method;
}

int ta_tls_begin(struct ta_tls *tls)
{
    const struct ta_openssl *openssl = tls->openssl;
    void *method = collecting_method(openssl);
    void *bio = method != NULL ? openssl->bio_new(method) : NULL;
    if (bio == NULL)
        return -ENOMEM;
    openssl->bio_set_data(bio, tls);
    openssl->bio_set_init(bio, 1);
    openssl->ssl_set0_wbio(tls->ssl, bio);
    return 0;
}

/* Sends what is encrypted. 0: all of it has left; or -errno, -EAGAIN if the socket is full. */
static int drain(struct ta_tls *tls)
{
    while (tls->sent < tls->encrypted) {
        ssize_t sent = send(tls->fd, tls->outgoing + tls->sent, tls->encrypted - tls->sent,
                            MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent >= 0)
            tls->sent += (uint64_t)sent;
        else if (errno != EINTR)
            return -errno;
    }
    tls->encrypted = tls->sent = 0;
    return 0;
}

/* OpenSSL's verdict on a call that returned `result`, as an -errno; 0 for the peer's end. */
static int verdict(struct ta_tls *tls, int result, int code)
{
    switch (tls->openssl->ssl_get_error(tls->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return 0;
    case SSL_ERROR_SYSCALL:
        return -code; /* 0: the peer closed the connection without an alert */
    default:
        tls->reason = tls->openssl->err_peek_last_error();
        /* Without a closing alert, which no migration sends: its stream has an end of its own. */
        return tls->reason == UNEXPECTED_EOF ? 0 : -EPROTO;
    }
}

/* Returns the next record's bytes: in place, or gathered in `record` from small pieces. */
static const uint8_t *next_record(const struct iovec **piece, const struct iovec *end,
                                  size_t *offset, uint8_t *record, size_t *bytes)
{
    *bytes = 0;
    while (*piece < end && *bytes < RECORD_BYTES) {
        const uint8_t *from = (const uint8_t *)(*piece)->iov_base + *offset;
        size_t size = (*piece)->iov_len - *offset;
        size_t room = RECORD_BYTES - *bytes;
        size_t part = size < room ? size : room;
        int is_last = *piece + 1 == end;
        if (*bytes == 0 && (part == RECORD_BYTES || is_last))
            record = (uint8_t *)(uintptr_t)from; /* whole where it is: no copy */
        else
            memcpy(record + *bytes, from, part);
        *bytes += part;
        *offset += part;
        if (*offset == (*piece)->iov_len) {
            ++*piece;
            *offset = 0;
        }
    }
    return record;
}

/* Encrypts one record. Returns how many bytes it took, or -errno. */
static int encrypt_record(struct ta_tls *tls, const uint8_t *bytes, size_t size)
{
    tls->openssl->err_clear_error();
    if (tls->records >= tls->records_per_key) {
        if (!tls->openssl->ssl_key_update(tls->ssl, SSL_KEY_UPDATE_NOT_REQUESTED)) {
            tls->reason = tls->openssl->err_peek_last_error();
            return -EPROTO;
        }
        tls->records = 0;
    }
    int written = tls->openssl->ssl_write(tls->ssl, bytes, (int)size);
    if (written <= 0) {
        int code = verdict(tls, written, errno);
        /* It writes to memory, so it never has to wait for the peer. */
        return code == 0 || code == -EAGAIN ? -EPROTO : code;
    }
    tls->records++;
    return written;
}

/* Encrypts at most a portion of the pieces. Returns 0 or -errno. */
static int encrypt(struct ta_tls *tls, const struct iovec *pieces, size_t count)
{
    uint8_t gathered[RECORD_BYTES];
    const struct iovec *piece = pieces, *end = pieces + count;
    size_t offset = 0, bytes;
    while (piece < end && tls->accepted < PORTION_BYTES) {
        const uint8_t *record = next_record(&piece, end, &offset, gathered, &bytes);
        for (size_t done = 0; done < bytes;) {
            int written = encrypt_record(tls, record + done, bytes - done);
            if (written < 0)
                return written;
            done += (size_t)written;
            tls->accepted += (uint64_t)written;
        }
    }
    return 0;
}

int64_t ta_tls_send(struct ta_tls *tls, const struct iovec *pieces, size_t count)
{
    if (tls->fd < 0)
        return -EBADF;
    if (tls->accepted == 0) {
        int code = encrypt(tls, pieces, count);
        if (code < 0)
            return code;
    }
    int code = drain(tls);
    /* Until all has left, in proportion: a slow peer that takes some is not silent. */
    uint64_t left = code == 0 ? tls->accepted : tls->accepted * tls->sent / tls->encrypted;
    /* OpenSSL may have added an alert or a KeyUpdate: then the proportion is smaller. */
    uint64_t news = left > tls->reported ? left - tls->reported : 0;
    tls->reported += news;
    if (code == 0)
        tls->accepted = tls->reported = 0;
    else if (code != -EAGAIN || news == 0)
        return code;
    return (int64_t)news;
}

/* Nothing more will be received: 0 for the peer's end, or -errno. */
static void note_end(struct ta_tls *tls, int code)
{
    tls->is_over = 1;
    tls->end = code;
    /* OpenSSL's alert, which tells the peer why; but not behind part of a record of ours. */
    if (tls->accepted == 0 && tls->sent == 0)
        drain(tls);
}

int64_t ta_tls_receive(struct ta_tls *tls, uint8_t *target, size_t size)
{
    size_t got = 0;
    if (tls->fd < 0)
        return -EBADF;
    while (got < size && !tls->is_over) {
        size_t room = size - got < INT_MAX ? size - got : INT_MAX;
        tls->openssl->err_clear_error();
        int read = tls->openssl->ssl_read(tls->ssl, target + got, (int)room);
        if (read > 0) {
            got += (size_t)read;
            continue;
        }
        int code = verdict(tls, read, errno);
        if (code == -EAGAIN)
            return got > 0 ? (int64_t)got : code;
        note_end(tls, code);
    }
    return got > 0 ? (int64_t)got : tls->end;
}

int ta_tls_is_readable(struct ta_tls *tls)
{
    uint8_t byte;
    if (tls->fd < 0 || tls->is_over)
        return 1;
    tls->openssl->err_clear_error();
    int read = tls->openssl->ssl_peek(tls->ssl, &byte, 1);
    int code = read > 0 ? 1 : verdict(tls, read, errno);
    if (code <= 0 && code != -EAGAIN)
        note_end(tls, code);
    return code != -EAGAIN;
}
