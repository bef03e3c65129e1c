/* XXH3, seed 0 (the XXH3 specification): XXH3-64 of pages and of their packed tags, each by itself,
 * pages at the speed of memory; and XXH3-128 of all memory, for the digest that both ends of a
 * migration compare. A size is 128 bytes, the tags of a page of 4 KiB, or a multiple of 64 from
 * 256 on ("long inputs"), which leaves out all cases for the rest.
 *
 * Why not the reference implementation: it is a header, xxhash.h, and a build must get it without
 * root and without a network in the build hook. The run-time dependency xxhash ships it in its
 * source distribution only, which a build cannot ask for; the one wheel that has it is pyarrow
 * (55 MB, as a private copy); a distribution's libxxhash-dev needs root or that distribution. And
 * it would replace half of this file: the choice of code by processor is not in the header. What
 * guards this code instead is the xxhash package itself: tests compare every variant with it. Its
 * speed is the reference's, compiled with the same flags, for data in the cache and in memory. */
#include "tagalong.h"

#include <stdatomic.h>
#include <string.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

#define STRIPE_BYTES 64
#define BLOCK_BYTES 1024
#define STRIPES (BLOCK_BYTES / STRIPE_BYTES)
#define PREFETCH_BYTES 384 /* a third faster than 1024 or more, for data beyond the cache */

#define PRIME32_1 UINT64_C(0x9E3779B1)
#define PRIME32_2 UINT64_C(0x85EBCA77)
#define PRIME32_3 UINT64_C(0xC2B2AE3D)
#define PRIME64_1 UINT64_C(0x9E3779B185EBCA87)
#define PRIME64_2 UINT64_C(0xC2B2AE3D27D4EB4F)
#define PRIME64_3 UINT64_C(0x165667B19E3779F9)
#define PRIME64_4 UINT64_C(0x85EBCA77C2B2AE63)
#define PRIME64_5 UINT64_C(0x27D4EB2F165667C5)
#define AVALANCHE UINT64_C(0x165667919E3779F9)

#define INLINE static inline __attribute__((always_inline))

/* Eight accumulators: the compiler makes of them what the processor has. */
typedef uint64_t lanes __attribute__((vector_size(STRIPE_BYTES)));

/* The default secret of the specification. */
static const uint8_t secret[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

static inline uint64_t load_u64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* Lanes are passed by address: functions for different processors pass vectors differently. */
INLINE void load(lanes *value, const uint8_t *bytes)
{
    memcpy(value, bytes, sizeof *value);
}

INLINE void accumulate(lanes *sum, const uint8_t *input, const uint8_t *key)
{
    lanes value, mixed;
    /* The processor's own prefetcher stops at the end of a page. This may go beyond all memory,
     * where it does nothing. */
    __builtin_prefetch(input + PREFETCH_BYTES);
    load(&value, input);
    load(&mixed, key);
    mixed ^= value;
    *sum += __builtin_shufflevector(value, value, 1, 0, 3, 2, 5, 4, 7, 6);
    *sum += (mixed & 0xFFFFFFFF) * (mixed >> 32);
}

INLINE void scramble(lanes *sum)
{
    lanes key;
    load(&key, secret + sizeof secret - STRIPE_BYTES);
    *sum = (*sum ^ *sum >> 47 ^ key) * PRIME32_1;
}

INLINE void add_block(lanes *sum, const uint8_t *block)
{
    for (int i = 0; i < STRIPES; i++)
        accumulate(sum, block + i * STRIPE_BYTES, secret + 8 * i);
    scramble(sum);
}

static uint64_t folded_product(uint64_t left, uint64_t right)
{
    unsigned __int128 product = (unsigned __int128)left * right;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t avalanche(uint64_t value)
{
    value = (value ^ value >> 37) * AVALANCHE;
    return value ^ value >> 32;
}

static uint64_t merge(const uint64_t *sum, const uint8_t *keys, uint64_t value)
{
    for (int i = 0; i < 4; i++) {
        const uint8_t *key = keys + 16 * i;
        value += folded_product(sum[2 * i] ^ load_u64(key), sum[2 * i + 1] ^ load_u64(key + 8));
    }
    return avalanche(value);
}

/* Pairs from both ends inwards, as the specification has them for 97 to 128 bytes. */
static uint64_t hash_128(const uint8_t *input)
{
    static const uint8_t pairs[8] = {0, 112, 16, 96, 32, 80, 48, 64};
    uint64_t sum = 128 * PRIME64_1;
    for (int i = 0; i < 8; i++) {
        const uint8_t *pair = input + pairs[i], *key = secret + 16 * i;
        sum += folded_product(load_u64(pair) ^ load_u64(key), load_u64(pair + 8) ^ load_u64(key + 8));
    }
    return avalanche(sum);
}

#define START {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4, PRIME32_2, PRIME64_5, PRIME32_1}

INLINE uint64_t hash_page(const uint8_t *page, size_t size)
{
    if (size == 128)
        return hash_128(page);
    lanes sum = START;
    const uint8_t *last_block = page + (size - 1) / BLOCK_BYTES * BLOCK_BYTES;
    const uint8_t *last_stripe = page + size - STRIPE_BYTES;
    for (const uint8_t *block = page; block < last_block; block += BLOCK_BYTES)
        add_block(&sum, block);
    const uint8_t *key = secret;
    for (const uint8_t *stripe = last_block; stripe < last_stripe; stripe += STRIPE_BYTES, key += 8)
        accumulate(&sum, stripe, key);
    accumulate(&sum, last_stripe, secret + sizeof secret - STRIPE_BYTES - 7);
    uint64_t lane[8];
    memcpy(lane, &sum, sizeof lane);
    return merge(lane, secret + 11, size * PRIME64_1);
}

INLINE void hash_pages(const uint8_t *data, size_t count, size_t page_bytes, uint64_t *digests)
{
    for (size_t i = 0; i < count; i++)
        digests[i] = hash_page(data + i * page_bytes, page_bytes);
}

INLINE void add_stripe(struct ta_digest *digest, lanes *sum, const uint8_t *stripe)
{
    accumulate(sum, stripe, secret + 8 * digest->stripes);
    if (++digest->stripes == STRIPES) {
        scramble(sum);
        digest->stripes = 0;
    }
}

/* The last 1 to 64 bytes stay in `rest`: the end of all input is hashed another way. */
INLINE void absorb(struct ta_digest *digest, const uint8_t *bytes, size_t size)
{
    digest->total += size;
    if (digest->rest_bytes + size <= STRIPE_BYTES) {
        memcpy(digest->rest + digest->rest_bytes, bytes, size);
        digest->rest_bytes += (uint32_t)size;
        return;
    }
    lanes sum;
    memcpy(&sum, digest->sums, sizeof sum);
    size_t missing = STRIPE_BYTES - digest->rest_bytes;
    memcpy(digest->rest + digest->rest_bytes, bytes, missing);
    add_stripe(digest, &sum, digest->rest);
    memcpy(digest->before, digest->rest, STRIPE_BYTES);
    bytes += missing;
    size -= missing;
    const uint8_t *start = bytes;
    while (size > STRIPE_BYTES && digest->stripes != 0) {
        add_stripe(digest, &sum, bytes);
        bytes += STRIPE_BYTES;
        size -= STRIPE_BYTES;
    }
    for (; size > BLOCK_BYTES; bytes += BLOCK_BYTES, size -= BLOCK_BYTES)
        add_block(&sum, bytes);
    for (; size > STRIPE_BYTES; bytes += STRIPE_BYTES, size -= STRIPE_BYTES)
        add_stripe(digest, &sum, bytes);
    if (bytes != start)
        memcpy(digest->before, bytes - STRIPE_BYTES, STRIPE_BYTES);
    memcpy(digest->sums, &sum, sizeof sum);
    memcpy(digest->rest, bytes, size);
    digest->rest_bytes = (uint32_t)size;
}

INLINE int is_zero(const uint8_t *bytes, size_t size)
{
    size_t at = 0;
    for (; at + BLOCK_BYTES <= size; at += BLOCK_BYTES) {
        lanes any = {0}, value;
        for (int i = 0; i < STRIPES; i++) {
            load(&value, bytes + at + i * STRIPE_BYTES);
            any |= value;
        }
        if (any[0] | any[1] | any[2] | any[3] | any[4] | any[5] | any[6] | any[7])
            return 0;
    }
    for (; at < size; at++)
        if (bytes[at])
            return 0;
    return 1;
}

INLINE void digest_blocks(struct ta_digest *digest, const struct ta_digest_stretch *stretch)
{
    for (uint64_t at = 0; at < stretch->bytes; at += stretch->block_bytes) {
        uint64_t left = stretch->bytes - at;
        uint64_t size = left < stretch->block_bytes ? left : stretch->block_bytes;
        uint64_t tag_bytes = size / stretch->data_per_tag_byte;
        const uint8_t *data = stretch->data + at;
        const uint8_t *tags = stretch->tags ? stretch->tags + at / stretch->data_per_tag_byte : NULL;
        if (is_zero(data, size) && (tags == NULL || is_zero(tags, tag_bytes)))
            continue;
        uint64_t head[2] = {stretch->address + at, size};
        absorb(digest, (const uint8_t *)head, sizeof head);
        absorb(digest, data, size);
        if (tags != NULL)
            absorb(digest, tags, tag_bytes);
    }
}

static void digest_anywhere(struct ta_digest *digest, const struct ta_digest_stretch *stretch)
{
    digest_blocks(digest, stretch);
}

static void hash_pages_anywhere(const uint8_t *data, size_t count, size_t page_bytes,
                                uint64_t *digests)
{
    hash_pages(data, count, page_bytes, digests);
}

typedef void hasher(const uint8_t *data, size_t count, size_t page_bytes, uint64_t *digests);
typedef void digester(struct ta_digest *digest, const struct ta_digest_stretch *stretch);

#ifdef __x86_64__
/* The same for processors with wider registers than every x86-64 has: two thirds and half of the
 * time for data that are in the cache. */
__attribute__((target("avx2"))) static void
hash_pages_avx2(const uint8_t *data, size_t count, size_t page_bytes, uint64_t *digests)
{
    hash_pages(data, count, page_bytes, digests);
}

__attribute__((target("avx512f,avx512dq"))) static void
hash_pages_avx512(const uint8_t *data, size_t count, size_t page_bytes, uint64_t *digests)
{
    hash_pages(data, count, page_bytes, digests);
}

__attribute__((target("avx2"))) static void
digest_avx2(struct ta_digest *digest, const struct ta_digest_stretch *stretch)
{
    digest_blocks(digest, stretch);
}

__attribute__((target("avx512f,avx512dq"))) static void
digest_avx512(struct ta_digest *digest, const struct ta_digest_stretch *stretch)
{
    digest_blocks(digest, stretch);
}

static hasher *const hashers[] = {hash_pages_anywhere, hash_pages_avx2, hash_pages_avx512};
static digester *const digesters[] = {digest_anywhere, digest_avx2, digest_avx512};

/* The last of `hashers` that the processor and the kernel have both enabled (Intel SDM volume 1,
 * 13.3 and 14.3: CPUID, XCR0). The compiler's own question needs a run-time library that is not
 * always there. */
static uint32_t find_widest(void)
{
    enum { AVX_STATE = 0x6, AVX512_STATE = 0xE6 };
    unsigned a, b, c, d, enabled, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
        return 0;
    __asm__("xgetbv" : "=a"(enabled), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return 0;
    if ((enabled & AVX512_STATE) == AVX512_STATE && b & bit_AVX512F && b & bit_AVX512DQ)
        return 2;
    return (enabled & AVX_STATE) == AVX_STATE && b & bit_AVX2;
}
#else
static hasher *const hashers[] = {hash_pages_anywhere};
static digester *const digesters[] = {digest_anywhere};

static uint32_t find_widest(void)
{
    return 0;
}
#endif

static uint32_t widest(void)
{
    /* One more than the answer, 0: not asked yet. Asked once, for a virtual machine's CPUID goes to
     * the hypervisor; threads that ask at the same time get the same answer. */
    static _Atomic uint32_t known;
    uint32_t found = atomic_load_explicit(&known, memory_order_relaxed);
    if (found == 0) {
        found = find_widest() + 1;
        atomic_store_explicit(&known, found, memory_order_relaxed);
    }
    return found - 1;
}

int ta_hash_pages_as(uint32_t variant, const uint8_t *data, size_t count, size_t page_bytes,
                     uint64_t *digests)
{
    if (variant > widest())
        return 0;
    hashers[variant](data, count, page_bytes, digests);
    return 1;
}

void ta_hash_pages(const uint8_t *data, size_t count, size_t page_bytes, uint64_t *digests)
{
    ta_hash_pages_as(widest(), data, count, page_bytes, digests);
}

void ta_digest_begin(struct ta_digest *digest, const uint8_t *domain, size_t bytes)
{
    static const uint64_t start[8] = START;
    *digest = (struct ta_digest){.total = 0};
    memcpy(digest->sums, start, sizeof start);
    absorb(digest, domain, bytes);
}

int ta_digest_add_as(uint32_t variant, struct ta_digest *digest,
                     const struct ta_digest_stretch *stretch)
{
    if (variant > widest())
        return 0;
    digesters[variant](digest, stretch);
    return 1;
}

void ta_digest_add(struct ta_digest *digest, const struct ta_digest_stretch *stretch)
{
    ta_digest_add_as(widest(), digest, stretch);
}

/* Most significant byte first, the specification's canonical form. */
static void write_canonical(uint64_t value, uint8_t *result)
{
    for (int i = 0; i < 8; i++)
        result[i] = (uint8_t)(value >> (56 - 8 * i));
}

void ta_digest_end(const struct ta_digest *digest, uint8_t *result)
{
    uint8_t last[STRIPE_BYTES];
    uint32_t missing = STRIPE_BYTES - digest->rest_bytes;
    memcpy(last, digest->before + digest->rest_bytes, missing);
    memcpy(last + missing, digest->rest, digest->rest_bytes);
    lanes sum;
    memcpy(&sum, digest->sums, sizeof sum);
    accumulate(&sum, last, secret + sizeof secret - STRIPE_BYTES - 7);
    uint64_t lane[8];
    memcpy(lane, &sum, sizeof lane);
    const uint8_t *high_keys = secret + sizeof secret - STRIPE_BYTES - 11;
    write_canonical(merge(lane, high_keys, ~(digest->total * PRIME64_2)), result);
    write_canonical(merge(lane, secret + 11, digest->total * PRIME64_1), result + 8);
}
