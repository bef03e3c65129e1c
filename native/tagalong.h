/* The C interface of libtagalong.so; src/tagalong/_native.py declares it to ctypes. */
#ifndef TAGALONG_H
#define TAGALONG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#define TA_ABI_VERSION 16
#define TA_EXPORT __attribute__((visibility("default")))

TA_EXPORT uint32_t ta_abi_version(void);

/* The size of the struct of this name ("ta_exit"), or 0 if the library has no such struct. */
TA_EXPORT size_t ta_struct_bytes(const char *name);

/* --- tags.c: bulk kernels over tags; each has a numpy twin in tagalong.mte ------------ */

/* tags: one a byte (values 0..15); packed: two a byte, lower-address granule in the low
 * nibble. `granules` is even. */
TA_EXPORT void ta_tags_pack(const uint8_t *tags, uint8_t *packed, size_t granules);
TA_EXPORT void ta_tags_unpack(const uint8_t *packed, uint8_t *tags, size_t granules);

struct ta_tag_run {
    uint64_t start; /* granule index */
    uint32_t length; /* granules; a longer run is split */
    uint32_t tag;
};

/* Writes at most `max_runs` runs of equal tags and returns how many there are in all. */
TA_EXPORT size_t ta_tags_runs(const uint8_t *packed, size_t granules, struct ta_tag_run *runs,
                              size_t max_runs);

/* How many tags of `bytes` packed bytes are not zero. */
TA_EXPORT uint64_t ta_tags_count(const uint8_t *packed, size_t bytes);

/* is_zero[i] = 1 if page i of `pages` pages of `page_bytes` (a multiple of 8) is all zero. */
TA_EXPORT void ta_pages_zero(const uint8_t *data, size_t pages, size_t page_bytes,
                             uint8_t *is_zero);

/* --- tag_runs.c: the tags of a batch as runs (docs/formats/stream.md) -------------------- */

/* Writes the runs of `packed`, `bytes` of them, a multiple of 8 and not 0, to `out`; returns their
 * size, 0 if all tags are zero, or -1 if they do not fit into `room` bytes, less 8. */
TA_EXPORT int64_t ta_tag_runs_encode(const uint8_t *packed, size_t bytes, uint8_t *out,
                                     size_t room);

enum {
    TA_TAG_RUNS_END = 1, /* the runs end before the last granule */
    TA_TAG_RUNS_SAME_TAG, /* a run has the tag of the one before */
    TA_TAG_RUNS_LENGTH, /* a length has more nibbles than it needs */
    TA_TAG_RUNS_BEYOND, /* a run ends behind the last granule */
    TA_TAG_RUNS_REST, /* something follows the last run */
};

/* Fills `packed`, a multiple of 8 bytes, from runs; 0, or one of these, and at which byte of `runs`
 * it was found. */
TA_EXPORT int ta_tag_runs_decode(const uint8_t *runs, size_t bytes, uint8_t *packed,
                                 size_t packed_bytes, uint64_t *place);

/* --- xxh3.c ------------------------------------------------------------------------------ */

/* digests[i] = XXH3-64 (seed 0) of page i of `count`; `page_bytes` is a multiple of 1024. */
TA_EXPORT void ta_hash_pages(const uint8_t *data, size_t count, size_t page_bytes,
                             uint64_t *digests);

/* The same by a given kind of code, for tests: 0 runs everywhere, a higher one needs wider
 * registers (1: AVX2, 2: AVX-512). Returns 0, and does nothing, if this processor lacks them. */
TA_EXPORT int ta_hash_pages_as(uint32_t variant, const uint8_t *data, size_t count,
                               size_t page_bytes, uint64_t *digests);

/* XXH3-128 (seed 0) of a stream of more than 240 bytes, as it comes. */
struct ta_digest {
    uint64_t sums[8];
    uint64_t total; /* bytes absorbed */
    uint32_t stripes; /* of the block under way */
    uint32_t rest_bytes;
    uint8_t rest[64]; /* not yet hashed */
    uint8_t before[64]; /* the bytes before them */
};

/* Memory of which each block of `block_bytes` that is not all zero is absorbed: its address, its
 * size, its data, and its tags, if there are any (docs/formats/stream.md, "The digest"). */
struct ta_digest_stretch {
    uint64_t address;
    uint64_t bytes;
    uint64_t block_bytes; /* a multiple of 64; the last block may be shorter */
    uint64_t data_per_tag_byte;
    const uint8_t *data;
    const uint8_t *tags; /* or NULL */
};

TA_EXPORT void ta_digest_begin(struct ta_digest *digest, const uint8_t *domain, size_t bytes);
TA_EXPORT void ta_digest_add(struct ta_digest *digest, const struct ta_digest_stretch *stretch);
TA_EXPORT void ta_digest_end(const struct ta_digest *digest, uint8_t *result);

/* The same by a given kind of code, as ta_hash_pages_as. */
TA_EXPORT int ta_digest_add_as(uint32_t variant, struct ta_digest *digest,
                               const struct ta_digest_stretch *stretch);

/* --- counter.c --------------------------------------------------------------------------- */

/* CNTFRQ_EL0 of this host: ticks of the system counter in a second; 0 if it is no arm64. */
TA_EXPORT uint64_t ta_counter_hz(void);

/* --- tls.c: bytes through a TLS connection of OpenSSL ----------------------------------- */

/* Functions of the libssl and libcrypto that made a connection (openssl/ssl.h, bio.h, err.h). */
struct ta_openssl {
    int (*ssl_read)(void *ssl, void *target, int bytes);
    int (*ssl_peek)(void *ssl, void *target, int bytes);
    int (*ssl_write)(void *ssl, const void *source, int bytes);
    int (*ssl_key_update)(void *ssl, int type);
    int (*ssl_get_error)(const void *ssl, int result);
    void (*ssl_set0_wbio)(void *ssl, void *bio);
    void *(*bio_meth_new)(int type, const char *name);
    int (*bio_meth_set_write)(void *method, int (*write)(void *bio, const char *bytes, int size));
    int (*bio_meth_set_ctrl)(void *method, long (*control)(void *bio, int command, long number,
                                                           void *argument));
    void *(*bio_new)(const void *method);
    void (*bio_set_data)(void *bio, void *data);
    void *(*bio_get_data)(void *bio);
    void (*bio_set_init)(void *bio, int is_ready);
    unsigned long (*err_peek_last_error)(void);
    void (*err_clear_error)(void);
};

/* A connection whose handshake is done; used by one thread at a time. */
struct ta_tls {
    const struct ta_openssl *openssl;
    void *ssl;
    uint8_t *outgoing; /* room for a portion that is encrypted, at least 17 * 16 KiB */
    uint64_t outgoing_bytes;
    uint64_t records_per_key; /* after so many that were sent, new keys are used */
    int32_t fd; /* the socket, which does not block; -1 once it is closed */
    /* Progress; all zero at first. */
    int32_t is_over;    /* nothing more is received; `end` says why */
    int32_t end;        /* 0: the peer's end, or -errno */
    uint64_t reason;    /* for -EPROTO: OpenSSL's error code */
    uint64_t accepted;  /* bytes that were encrypted and have not all left */
    uint64_t reported;  /* those of them that ta_tls_send has returned */
    uint64_t encrypted; /* what they came to */
    uint64_t sent;      /* those of them that have left */
    uint64_t records;   /* that the key in use has encrypted */
};

/* Lets what OpenSSL encrypts for this connection leave by ta_tls_send; needed once, before it. The
 * connection points to `tls` from then on. 0 or -ENOMEM. */
TA_EXPORT int ta_tls_begin(struct ta_tls *tls);

/* Sends from `pieces`, none of them empty. Returns how many bytes have left; -EAGAIN: none, poll for
 * POLLOUT; or -errno. It must be called again with the bytes behind those that have left, which must
 * not change meanwhile, until all have; else nothing may be sent any more. */
TA_EXPORT int64_t ta_tls_send(struct ta_tls *tls, const struct iovec *pieces, size_t count);

/* Receives into `target`. Returns how many bytes, 0 at the peer's end; -EAGAIN: none, poll for
 * POLLIN, everything whole was taken from the socket; or -errno. */
TA_EXPORT int64_t ta_tls_receive(struct ta_tls *tls, uint8_t *target, size_t size);

/* Returns 0 if ta_tls_receive would return -EAGAIN, else 1. */
TA_EXPORT int ta_tls_is_readable(struct ta_tls *tls);

/* --- page_stream.c: the data of a batch between memory and a socket --------------------- */

struct ta_segment {
    uint64_t address;
    uint64_t bytes; /* not 0; of pages, a multiple of their size */
};

struct ta_page_cursor {
    uint64_t segment, offset; /* offset: in that segment */
    uint64_t total;           /* bytes from the first segment's start */
};

struct ta_page_stream {
    int32_t fd; /* a stream socket */
    uint32_t page_bytes;
    struct ta_tls *tls; /* what encrypts its bytes, or NULL */
    const struct ta_segment *segments;
    uint64_t segment_count;
    uint64_t total_bytes; /* of all segments */
    uint64_t *digests;    /* room for one a page: ta_hash_pages of each, when it is done;
                           * receiving: NULL for bytes that are no pages */
    uint8_t *stage;       /* sending: NULL, or a copy of the pages is made here first, because
                           * others may write to them meanwhile; a multiple of the page size */
    uint64_t stage_bytes;
    uint32_t follows_packets; /* receiving: not 0, see ta_follow_packets */
    uint32_t reserved;
    /* Progress; all zero at first. */
    uint64_t staged_sent;
    struct ta_page_cursor moved, hashed;
};

/* Move all of the segments to, or from, the socket and hash their pages. 1: done; 0: not in
 * `timeout_ms`: call again; or -errno, -ENODATA where the peer has closed. */
TA_EXPORT int ta_send_pages(struct ta_page_stream *stream, uint32_t timeout_ms);
TA_EXPORT int ta_receive_pages(struct ta_page_stream *stream, uint32_t timeout_ms);

/* --- cpus.c: where the threads of a transfer run ---------------------------------------- */

/* Moves the calling thread to the processor on which the socket's packets are processed: that of
 * the sender, if it is on this host. The thread's affinity stays as it is. */
TA_EXPORT void ta_follow_packets(int fd);

/* Moves the calling thread to the processor `number`, counted round and round, of those that it may
 * use. Its affinity stays as it is. */
TA_EXPORT void ta_start_apart(uint32_t number);

/* --- planes.c: system calls for many places at once ------------------------------------ */

/* Reads `count` pages of a file, one after the other, into `target`. Returns 0 or -errno. */
TA_EXPORT int ta_read_pages(int fd, uint64_t page_bytes, const int64_t *pages, size_t count,
                            uint8_t *target);

/* Copies `count` pages, and hashes the copy as ta_hash_pages does: what others do to the pages
 * meanwhile is in both or in neither. */
TA_EXPORT void ta_copy_and_hash(uint8_t *copy, const uint8_t *pages, size_t count,
                                size_t page_bytes, uint64_t *digests);

struct ta_file_write {
    uint64_t offset; /* in the file */
    uint64_t size;
    uint64_t source; /* where it comes from, counted from the start of `source` */
};

/* Makes `count` writes; `done` is the number of those that are complete. Returns 0 or -errno. */
TA_EXPORT int ta_write_ranges(int fd, const struct ta_file_write *writes, size_t count,
                              const uint8_t *source, uint64_t *done);

/* Finds the data (SEEK_DATA) of a file from byte `from` on: at most `most` pairs [start, stop),
 * in order. Returns their number, fewer than `most` at the file's end, or -errno. */
TA_EXPORT int64_t ta_file_extents(int fd, uint64_t from, uint64_t *extents, size_t most);

/* Makes the same ioctl with each of `count` arguments, until one fails; results[i] is what
 * the i-th returned, or -errno. Returns the number of those that did not fail. */
TA_EXPORT size_t ta_ioctl_each(int fd, uint64_t request, uint8_t *arguments,
                               size_t argument_bytes, size_t count, int32_t *results);

/* --- virtio/: split virtqueues, and what travels through them ---------------------------- */

/* A range of guest RAM and where this process has it. */
struct ta_ram_range {
    uint64_t gpa, bytes, address;
};

/* A piece of guest RAM; the layout of struct iovec. */
struct ta_buffer {
    uint64_t address, bytes;
};

/* A request: its buffers are `readable` and then `writable` of those that begin with `first`. */
struct ta_chain {
    uint32_t head; /* its name in the used ring */
    uint32_t first, readable, writable;
    uint64_t readable_bytes, writable_bytes;
};

/* The rules of the specification that a driver may break. `found` and `limit` are of: */
enum ta_virtq_rule {
    TA_VIRTQ_TOO_MANY = 1,           /* requests, the queue's size */
    TA_VIRTQ_NO_SUCH_HEAD = 2,       /* the descriptor, the queue's size */
    TA_VIRTQ_NO_SUCH_NEXT = 3,       /* the descriptor, the table's size */
    TA_VIRTQ_LOOP = 4,               /* the queue's size */
    TA_VIRTQ_NOT_IN_RAM = 5,         /* the gpa, how many bytes */
    TA_VIRTQ_TOO_LONG = 6,           /* the most bytes */
    TA_VIRTQ_READABLE_BEHIND_WRITABLE = 7,
    TA_VIRTQ_INDIRECT_NOT_NEGOTIATED = 8,
    TA_VIRTQ_INDIRECT_INSIDE_INDIRECT = 9,
    TA_VIRTQ_BEHIND_INDIRECT = 10,
    TA_VIRTQ_INDIRECT_SIZE = 11,     /* the table's bytes, the queue's size */
    TA_VIRTQ_INDIRECT_SPLIT = 12,    /* across two ranges of RAM */
};

/* A queue. The caller has checked that all three areas are in RAM, and aligned; it calls from one
 * thread at a time, and marks the device area and the buffers in the dirty log. */
struct ta_virtq {
    uint64_t desc, avail, used; /* addresses */
    uint64_t ram;               /* the address of `ram_count` ta_ram_range, apart from each other */
    uint32_t ram_count;
    uint32_t size;              /* a power of two, at most 32768 */
    uint32_t has_event_idx, has_indirect;
    /* How far the device is. */
    uint16_t next_avail, next_used, signalled_used, has_signalled;
    uint32_t is_quiet;          /* the driver has been asked not to notify */
    uint32_t left;              /* how many requests the last ta_virtq_take left */
    /* The rule that was broken last, by the chain of `head`. */
    uint32_t rule, head;
    uint64_t found, limit;
};

/* Takes at most `most` requests, and asks the driver not to notify of more; if there is none, asks
 * it to notify of the next. Returns how many, or -1 if the first breaks a rule. `room`: of buffers,
 * at least (size + 1) * ram_count. */
TA_EXPORT int ta_virtq_take(struct ta_virtq *queue, struct ta_chain *chains, uint32_t most,
                            struct ta_buffer *buffers, size_t room);
/* Asks the driver to notify of the next request; how many there are already, or -1. */
TA_EXPORT int ta_virtq_await(struct ta_virtq *queue);
/* Gives requests back, all at once, with the number of bytes stored to each. Returns whether the
 * driver wants an interrupt. */
TA_EXPORT int ta_virtq_give(struct ta_virtq *queue, const struct ta_chain *chains,
                            const uint32_t *written, uint32_t count);

/* Writes the buffers of a part of the row that `count` buffers are; returns their number, at most
 * `count`. */
TA_EXPORT size_t ta_buffers_part(const struct ta_buffer *buffers, size_t count, uint64_t start,
                                 uint64_t bytes, struct ta_buffer *part);
/* Copies `bytes` from byte `start` of the row on; the row has them. */
TA_EXPORT void ta_buffers_read(const struct ta_buffer *buffers, size_t count, uint64_t start,
                               uint64_t bytes, uint8_t *target);
/* Copies `bytes` to the start of the row, which has room for them. */
TA_EXPORT void ta_buffers_write(const struct ta_buffer *buffers, size_t count,
                                const uint8_t *source, uint64_t bytes);
/* Moves all of the row from `position` of a file on, or to there. 0, -errno, or -ENODATA where the
 * file ends; a part may have been moved then. */
TA_EXPORT int ta_buffers_transfer(int fd, const struct ta_buffer *buffers, size_t count,
                                  uint64_t position, uint32_t is_write);
/* Sets the bits of the pages that the buffers touch of the range of `bytes` at `address`. */
TA_EXPORT void ta_buffers_mark(const struct ta_buffer *buffers, size_t count, uint64_t address,
                               uint64_t bytes, uint64_t page_bytes, uint64_t *bitmap);

enum { TA_FRAME_LEAST_BYTES = 14, TA_FRAME_MOST_BYTES = 65535 };

/* A row of frames: be32 length and frame, each. Returns how many bytes of `data` are whole frames;
 * `wrong`: -1, or the length that the next has, which no frame has. */
TA_EXPORT size_t ta_frames_whole(const uint8_t *data, size_t bytes, int64_t *wrong);
/* Copies frames to send out of their chains to a row, which is `bytes` long then; those of a length
 * that no frame has are left out. Returns how many chains there was room for, or -1 if the first is
 * no frame's: it has no header, or a buffer to write to. */
TA_EXPORT int64_t ta_frames_gather(const struct ta_chain *chains, size_t count,
                                   const struct ta_buffer *buffers, uint8_t *frames, size_t room,
                                   size_t *bytes);
/* Stores whole frames to buffers, each behind a header and, if `is_merged`, over as many as it
 * takes; one that is too large is left out. Returns how many chains were used, with `written` bytes
 * each, for the first `consumed` bytes: fewer than all if they do not suffice. Or -1: the first has
 * no room for a header. With `written` NULL it only counts. */
TA_EXPORT int64_t ta_frames_scatter(const uint8_t *frames, size_t bytes,
                                    const struct ta_chain *chains, size_t count,
                                    const struct ta_buffer *buffers, uint32_t is_merged,
                                    uint32_t *written, size_t *consumed);
/* Reads what frames a tap device has into a row, as far as there is room for the largest. 0 or
 * -errno. */
TA_EXPORT int ta_frames_read_tap(int fd, uint8_t *frames, size_t room, size_t *bytes);
/* Writes a row to a tap device; counts frames that it does not take now. 0 or -errno. */
TA_EXPORT int ta_frames_write_tap(int fd, const uint8_t *frames, size_t bytes, size_t *dropped);

/* --- kvm/: what runs without Python while a guest of KVM's runs ---------------------------- */

/* The interrupt status of a virtio device: reasons, one bit each. */
struct ta_interrupts;

TA_EXPORT struct ta_interrupts *ta_interrupts_new(void); /* NULL if memory is short */
TA_EXPORT void ta_interrupts_free(struct ta_interrupts *interrupts);
/* Lets KVM's line follow the reasons: of this VM (-1: none), by the number that KVM_IRQ_LINE takes;
 * `gpa`: the device's window. 0 or -errno. */
TA_EXPORT int ta_interrupts_connect(struct ta_interrupts *interrupts, int vm, uint32_t irq,
                                    uint64_t gpa);
TA_EXPORT uint32_t ta_interrupts_get(const struct ta_interrupts *interrupts);
/* Clears reasons, then sets others. From any thread. 0, or -errno of KVM_IRQ_LINE. */
TA_EXPORT int ta_interrupts_change(struct ta_interrupts *interrupts, uint32_t clear, uint32_t set);

#define TA_KVM_EXIT_LINE UINT32_MAX

struct ta_kvm_exit {
    uint32_t reason; /* KVM's; TA_KVM_EXIT_LINE: KVM_IRQ_LINE failed, not KVM_RUN */
    uint32_t bytes, is_write;
    uint32_t answered; /* is counted up by the accesses that were answered before this exit */
    uint64_t gpa, data;
};

/* A register that a read does not change, as it is now. */
struct ta_register {
    uint64_t gpa, value;
};

/* What is answered without an exit: addresses of arrays of addresses. */
struct ta_kvm_answers {
    uint64_t interrupts, interrupt_count; /* of struct ta_interrupts */
    uint64_t registers, register_count;   /* of struct ta_register */
};

/* Runs a vCPU until it exits for something else than `answers`. `shared`: the vCPU's struct kvm_run.
 * 0, or -errno of KVM_RUN. */
TA_EXPORT int ta_kvm_run(int vcpu, void *shared, const struct ta_kvm_answers *answers,
                         struct ta_kvm_exit *exit);

/* --- cpu/: the interpreter ------------------------------------------------------------- */

#include "cpu/machine.h"

/* --- arm64/: only in the library for arm64 ---------------------------------------------- */

#if defined(__aarch64__)

/* The routines of arm64/routines.S; the index at their start is described there. */
TA_EXPORT const void *ta_routines(void);
TA_EXPORT uint64_t ta_routines_bytes(void);

enum ta_call_flags {
    TA_CALL_CHECKS_OFF = 1,  /* PR_MTE_TCF_NONE for the thread meanwhile */
    TA_CALL_STACK_APART = 2, /* signals blocked, another stack for the fault's handler */
};

struct ta_call {
    uint64_t routine; /* its offset */
    uint64_t arguments[6];
    uint32_t flags;
    /* Results. `signal` is 0 without a fault; with one x0 is 0 and the rest describes it. `pc` is
     * an offset if it is in the routines. */
    uint32_t system_calls;
    uint64_t value;
    int32_t signal;
    int32_t code;
    uint64_t address;
    uint64_t pc;
    uint64_t sp;
    uint64_t pstate;
};

/* Runs one routine in the calling thread. 0, or an errno if it could not be run; a fault in it
 * is a result. SP, TCO, prctl, signal mask and alternate stack are as before afterwards. */
TA_EXPORT int ta_call_guarded(struct ta_call *call);

#endif

#endif
