/* Split virtqueues (virtio 1.2, section 2.7): requests taken out of a driver's rings, many at a
 * time, and given back.
 *
 * A driver may be hostile, and it changes memory while a device reads it. So each descriptor is
 * read once, into a copy; a walk ends after as many of them as the queue has; addresses and lengths
 * are checked against RAM before they become a buffer; and a broken rule is a value that the caller
 * finds in the queue. Whether the rings themselves are in RAM the caller has checked.
 *
 * The indexes of both rings are shared with vCPUs that run: each is one access of 16 bits. The
 * system's barriers are the specification's: entries before the index (2.7.13.1.1), and the index
 * before a look at what the other side wants (2.7.13.4.1, 2.7.14). */
#include "tagalong.h"

#include <stdatomic.h>
#include <string.h>

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };
enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1 };
enum { RING_FLAGS = 0, RING_INDEX = 2, RING_ENTRIES = 4 };

#define MAX_CHAIN_BYTES (UINT64_C(1) << 32)

/* Packed: a driver's indirect table may begin at any address. */
struct __attribute__((packed)) descriptor {
    uint64_t gpa;
    uint32_t bytes;
    uint16_t flags, next;
};

struct used_element {
    uint32_t id, bytes;
};

struct table {
    uint64_t address;
    uint32_t size;
};

static uint16_t load16(uint64_t address)
{
    return atomic_load_explicit((_Atomic uint16_t *)(uintptr_t)address, memory_order_relaxed);
}

static void store16(uint64_t address, uint16_t value)
{
    atomic_store_explicit((_Atomic uint16_t *)(uintptr_t)address, value, memory_order_relaxed);
}

/* Each field is read once: what is checked is what is used. */
static struct descriptor load_descriptor(uint64_t table, uint32_t index)
{
    const volatile struct descriptor *at = (struct descriptor *)(uintptr_t)table + index;
    return (struct descriptor){at->gpa, at->bytes, at->flags, at->next};
}

static int broken(struct ta_virtq *queue, enum ta_virtq_rule rule, uint64_t found, uint64_t limit)
{
    queue->rule = rule;
    queue->found = found;
    queue->limit = limit;
    return -1;
}

static const struct ta_ram_range *range_of(const struct ta_virtq *queue, uint64_t gpa)
{
    const struct ta_ram_range *ram = (const struct ta_ram_range *)(uintptr_t)queue->ram;
    for (uint32_t i = 0; i < queue->ram_count; i++)
        if (gpa - ram[i].gpa < ram[i].bytes)
            return &ram[i];
    return NULL;
}

/* Writes the buffers of a gpa range, one for each range of RAM that it touches, and returns their
 * number, -1 if some of it is not RAM, -2 if there is no room. */
static int to_buffers(const struct ta_virtq *queue, uint64_t gpa, uint64_t bytes,
                      struct ta_buffer *buffers, size_t room)
{
    size_t count = 0;
    while (bytes > 0) {
        const struct ta_ram_range *range = range_of(queue, gpa);
        if (range == NULL)
            return -1;
        if (count == room)
            return -2;
        uint64_t offset = gpa - range->gpa, left = range->bytes - offset;
        uint64_t size = bytes < left ? bytes : left;
        buffers[count++] = (struct ta_buffer){range->address + offset, size};
        gpa += size;
        bytes -= size;
    }
    return (int)count;
}

/* Enters the indirect table that a descriptor refers to. 0, or -1. */
static int enter(struct ta_virtq *queue, const struct descriptor *to, struct table *table)
{
    if (!queue->has_indirect)
        return broken(queue, TA_VIRTQ_INDIRECT_NOT_NEGOTIATED, 0, 0);
    if (to->flags & DESC_NEXT)
        return broken(queue, TA_VIRTQ_BEHIND_INDIRECT, 0, 0);
    uint32_t count = to->bytes / sizeof(struct descriptor);
    if (to->bytes % sizeof(struct descriptor) || count < 1 || count > queue->size)
        return broken(queue, TA_VIRTQ_INDIRECT_SIZE, to->bytes, queue->size);
    struct ta_buffer where;
    int pieces = to_buffers(queue, to->gpa, to->bytes, &where, 1);
    if (pieces == -1)
        return broken(queue, TA_VIRTQ_NOT_IN_RAM, to->gpa, to->bytes);
    if (pieces != 1)
        return broken(queue, TA_VIRTQ_INDIRECT_SPLIT, 0, 0);
    *table = (struct table){where.address, count};
    return 0;
}

/* Adds the buffers of one descriptor to `chain`. 1, 0 if there is no room, or -1. */
static int add(struct ta_virtq *queue, const struct descriptor *one, struct ta_chain *chain,
               struct ta_buffer *buffers, size_t room)
{
    int is_writable = one->flags & DESC_WRITE;
    if (chain->writable && !is_writable)
        return broken(queue, TA_VIRTQ_READABLE_BEHIND_WRITABLE, 0, 0);
    if (chain->readable_bytes + chain->writable_bytes + one->bytes > MAX_CHAIN_BYTES)
        return broken(queue, TA_VIRTQ_TOO_LONG, MAX_CHAIN_BYTES, 0);
    uint32_t taken = chain->readable + chain->writable;
    int count = to_buffers(queue, one->gpa, one->bytes, buffers + taken, room - taken);
    if (count == -1)
        return broken(queue, TA_VIRTQ_NOT_IN_RAM, one->gpa, one->bytes);
    if (count < 0)
        return 0;
    if (is_writable) {
        chain->writable += (uint32_t)count;
        chain->writable_bytes += one->bytes;
    } else {
        chain->readable += (uint32_t)count;
        chain->readable_bytes += one->bytes;
    }
    return 1;
}

/* Reads the chain that begins with descriptor `head`. 1, 0 if there is no room, or -1. */
static int walk(struct ta_virtq *queue, uint32_t head, struct ta_chain *chain,
                struct ta_buffer *buffers, size_t room)
{
    struct table table = {queue->desc, queue->size};
    uint32_t index = head;
    int is_inside = 0;
    queue->head = head;
    if (head >= queue->size)
        return broken(queue, TA_VIRTQ_NO_SUCH_HEAD, head, queue->size);
    /* One more than the queue has: for the descriptor that refers to a table. */
    for (uint32_t n = 0; n <= queue->size; n++) {
        struct descriptor one = load_descriptor(table.address, index);
        if (one.flags & DESC_INDIRECT) {
            if (is_inside)
                return broken(queue, TA_VIRTQ_INDIRECT_INSIDE_INDIRECT, 0, 0);
            if (enter(queue, &one, &table) < 0)
                return -1;
            index = 0;
            is_inside = 1;
            continue;
        }
        int added = add(queue, &one, chain, buffers, room);
        if (added <= 0 || !(one.flags & DESC_NEXT))
            return added;
        if (one.next >= table.size)
            return broken(queue, TA_VIRTQ_NO_SUCH_NEXT, one.next, table.size);
        index = one.next;
    }
    return broken(queue, TA_VIRTQ_LOOP, queue->size, 0);
}

/* How many requests there are that were not taken, or -1. */
static int count_available(struct ta_virtq *queue)
{
    uint16_t count = (uint16_t)(load16(queue->avail + RING_INDEX) - queue->next_avail);
    if (count > queue->size)
        return broken(queue, TA_VIRTQ_TOO_MANY, count, queue->size);
    if (count)
        atomic_thread_fence(memory_order_acquire);
    return count;
}

static uint64_t used_event(const struct ta_virtq *queue)
{
    return queue->avail + RING_ENTRIES + queue->size * sizeof(uint16_t);
}

static uint64_t avail_event(const struct ta_virtq *queue)
{
    return queue->used + RING_ENTRIES + queue->size * sizeof(struct used_element);
}

int ta_virtq_await(struct ta_virtq *queue)
{
    queue->is_quiet = 0;
    if (queue->has_event_idx)
        store16(avail_event(queue), queue->next_avail);
    else
        store16(queue->used + RING_FLAGS, 0);
    atomic_thread_fence(memory_order_seq_cst);
    return count_available(queue);
}

/* With event indexes, one that is not moved on asks for nothing (section 2.7.10). */
static void be_quiet(struct ta_virtq *queue)
{
    if (!queue->is_quiet && !queue->has_event_idx)
        store16(queue->used + RING_FLAGS, USED_NO_NOTIFY);
    queue->is_quiet = 1;
}

int ta_virtq_take(struct ta_virtq *queue, struct ta_chain *chains, uint32_t most,
                  struct ta_buffer *buffers, size_t room)
{
    int count = count_available(queue);
    if (count == 0)
        count = ta_virtq_await(queue);
    queue->left = 0;
    if (count <= 0)
        return count;
    be_quiet(queue);
    uint32_t taken = 0;
    size_t at = 0;
    for (; taken < most && taken < (uint32_t)count; taken++) {
        uint16_t slot = queue->next_avail & (queue->size - 1);
        uint32_t head = load16(queue->avail + RING_ENTRIES + slot * sizeof(uint16_t));
        struct ta_chain chain = {.head = head, .first = (uint32_t)at};
        int walked = walk(queue, head, &chain, buffers + at, room - at);
        if (walked < 0 && taken == 0)
            return -1;
        if (walked <= 0)
            break; /* after those before it: the next call meets it first */
        chains[taken] = chain;
        at += chain.readable + chain.writable;
        queue->next_avail++;
    }
    queue->left = (uint32_t)count - taken;
    return (int)taken;
}

/* Whether the driver wants an interrupt for what was given back since the last. */
static int must_interrupt(struct ta_virtq *queue)
{
    uint16_t now = queue->next_used, since = queue->signalled_used;
    int had_signalled = queue->has_signalled;
    atomic_thread_fence(memory_order_seq_cst);
    queue->signalled_used = now;
    queue->has_signalled = 1;
    if (!queue->has_event_idx)
        return !(load16(queue->avail + RING_FLAGS) & AVAIL_NO_INTERRUPT);
    uint16_t event = load16(used_event(queue));
    return !had_signalled || (uint16_t)(now - event - 1) < (uint16_t)(now - since);
}

int ta_virtq_give(struct ta_virtq *queue, const struct ta_chain *chains, const uint32_t *written,
                  uint32_t count)
{
    struct used_element *ring = (struct used_element *)(uintptr_t)(queue->used + RING_ENTRIES);
    for (uint32_t i = 0; i < count; i++) {
        struct used_element element = {chains[i].head, written[i]};
        memcpy(&ring[queue->next_used++ & (queue->size - 1)], &element, sizeof element);
    }
    atomic_thread_fence(memory_order_release);
    store16(queue->used + RING_INDEX, queue->next_used);
    return must_interrupt(queue);
}
