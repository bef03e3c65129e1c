/* A process that misuses memory in one way, so that Linux writes a core whose cause is known.
 *
 *     mishap libc|simple SEED
 *
 * It allocates and frees for a while, prints one line of truth, does the deed, and exits with 0
 * if nothing came of it: a check passes where the tags are equal by chance. "libc" is the
 * allocator of the C library or one that is preloaded; "simple" is in simple.h. The line of truth
 * names the block that was misused. */
#include <malloc.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "mishap.h"
#include "simple.h"

/* scudo's: neighbours have tags of different parity. */
#define M_MEMTAG_TUNING -102
#define M_MEMTAG_TUNING_BUFFER_OVERFLOW 0

#define BLOCKS 96
#define SAME_CLASS_TRIES 64

static const struct allocator libc_allocator = { malloc, free };
static const struct allocator simple_allocator = { simple_allocate, simple_free };

static uint64_t seed;

uint64_t draw(uint64_t limit)
{
    uint64_t z = seed += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return (z ^ z >> 31) % limit;
}

/* Before anything allocates: a preloaded allocator looks for the mode at its first allocation. */
static void check_synchronously(void)
{
    unsigned long control = PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | 0xfffeUL << PR_MTE_TAG_SHIFT;
    prctl(PR_SET_TAGGED_ADDR_CTRL, control, 0, 0, 0);
}
__attribute__((section(".preinit_array"), used)) static void (*const early)(void) =
    check_synchronously;

/* scudo's: write down who allocated and freed what. */
extern void malloc_set_track_allocation_stacks(int track) __attribute__((weak));

/* What crash reporters do: look at the fault, then end in another way. */
static void report(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info, (void)context;
    raise(SIGTRAP);
}

static void handle_faults(void)
{
    static char room[64 << 10];
    stack_t other = { .ss_sp = room, .ss_size = sizeof room };
    struct sigaction action = { .sa_sigaction = report, .sa_flags = SA_SIGINFO };
    if (seed & 1 && !sigaltstack(&other, NULL))
        action.sa_flags |= SA_ONSTACK;
    sigaction(SIGSEGV, &action, NULL);
}

static struct block blocks[BLOCKS];

static size_t draw_size(void)
{
    uint64_t kind = draw(20);
    if (kind < 14)
        return 1 + draw(256);
    return kind < 19 ? 256 + draw(768) : 1024 + draw(7000);
}

static void fill(struct block *block)
{
    static const char text[] = "the secret of a user; ";
    for (size_t i = 0; i < block->size; i++)
        block->pointer[i] = text[(i + block->size) % (sizeof text - 1)];
}

static void allocate(const struct allocator *heap, struct block *block, size_t size)
{
    block->size = size;
    block->pointer = heap->allocate(size);
    if (block->pointer)
        fill(block);
}

static void churn(const struct allocator *heap)
{
    for (int i = 0; i < BLOCKS; i++)
        allocate(heap, &blocks[i], draw_size());
    for (uint64_t left = draw(400); left; left--) {
        struct block *block = &blocks[draw(BLOCKS)];
        if (block->pointer && draw(2)) {
            heap->free((void *)block->pointer);
            block->pointer = NULL;
        } else if (!block->pointer) {
            allocate(heap, block, draw_size());
        }
    }
}

static struct block *draw_block(void)
{
    for (;;) {
        struct block *block = &blocks[draw(BLOCKS)];
        if (block->pointer)
            return block;
    }
}

static void tell(const char *cause, const struct block *block)
{
    uintptr_t address = (uintptr_t)block->pointer;
    char line[200];
    int length = snprintf(line, sizeof line, "cause=%s start=%#lx tag=%lu size=%zu\n", cause,
                          address & 0xffffffffffffff, address >> 56 & 15, block->size);
    if (write(1, line, (size_t)length) != length)
        _exit(3);
}

/* One access of 1 to 16 bytes. */
static void touch(volatile char *at)
{
    static volatile uint64_t sink;
    switch (draw(8)) {
    case 0: sink = *(volatile uint8_t *)at; break;
    case 1: sink = *(volatile uint32_t *)at; break;
    case 2: sink = *(volatile uint64_t *)at; break;
    case 3: *at = 'x'; break;
    case 4: *(volatile uint16_t *)at = 1; break;
    case 5: *(volatile uint64_t *)at = 1; break;
    case 6: __asm__ volatile("stp xzr, xzr, [%0]" : : "r"(at) : "memory"); break;
    default: __asm__ volatile("ldr q0, [%0]" : : "r"(at) : "v0", "memory"); break;
    }
}

static void overflow(const struct allocator *heap)
{
    (void)heap;
    struct block *block = draw_block();
    tell("overflow", block);
    if (draw(10) < 6) {
        size_t end = block->size + 1 + draw(256);
        for (volatile size_t i = block->size; i < end; i++)
            block->pointer[i] = 'o';
        return;
    }
    touch(block->pointer + block->size + (draw(1UL << draw(13)) & ~7UL));
}

static void underflow(const struct allocator *heap)
{
    (void)heap;
    struct block *block = draw_block();
    tell("underflow", block);
    touch(block->pointer - (1 + draw(1UL << (1 + draw(10)))));
}

static size_t inside(const struct block *block)
{
    return draw(2) ? draw(block->size < 16 ? block->size : 16) : draw(block->size);
}

static void touch_freed(const struct allocator *heap)
{
    struct block gone = *draw_block();
    size_t offset = inside(&gone);
    heap->free((void *)gone.pointer);
    tell("use-after-free", &gone);
    touch(gone.pointer + offset);
}

static void touch_reused(const struct allocator *heap)
{
    struct block gone = *draw_block(), other = { 0 };
    size_t offset = inside(&gone);
    heap->free((void *)gone.pointer);
    for (int i = 0; i < SAME_CLASS_TRIES; i++) {
        allocate(heap, &other, gone.size);
        if (!(((uintptr_t)other.pointer ^ (uintptr_t)gone.pointer) << 8)) {
            tell("use-after-reuse", &gone);
            touch(gone.pointer + offset);
            return;
        }
    }
}

static void free_twice(const struct allocator *heap)
{
    struct block *block = draw_block();
    heap->free((void *)block->pointer);
    tell("double-free", block);
    heap->free((void *)block->pointer);
}

static volatile char *with_tag(volatile char *pointer, uint64_t tag)
{
    return (volatile char *)(((uintptr_t)pointer & ~(15UL << 56)) | tag << 56);
}

static void lost_pointer_tag(const struct allocator *heap)
{
    (void)heap;
    struct block *block = draw_block();
    tell("lost-pointer-tag", block);
    touch(with_tag(block->pointer, 0) + inside(block));
}

/* A pointer with a bit flipped, or one to somewhere else in the heap with any tag. */
static void wild_pointer(const struct allocator *heap)
{
    (void)heap;
    struct block *block = draw_block();
    tell("wild-pointer", block);
    if (draw(2))
        touch((volatile char *)((uintptr_t)block->pointer ^ 1UL << (56 + draw(4))) + inside(block));
    else
        touch(with_tag(draw_block()->pointer + draw(4096) - draw(4096), 1 + draw(15)));
}

#define PAGE 4096UL
static void lost_memory_tags(const struct allocator *heap)
{
    (void)heap;
    struct block *block = draw_block();
    size_t offset = inside(block);
    uintptr_t page = ((uintptr_t)block->pointer + offset) & ~(15UL << 56) & ~(PAGE - 1);
    size_t length = PAGE << draw(3);
    tell("lost-memory-tags", block);
    for (uintptr_t at = page; at < page + length; at += 16)
        __asm__ volatile("stg %0, [%0]" : : "r"(at) : "memory");
    touch(block->pointer + offset);
}

static void asynchronous(const struct allocator *heap)
{
    prctl(PR_SET_TAGGED_ADDR_CTRL,
          PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_ASYNC | 0xfffeUL << PR_MTE_TAG_SHIFT, 0, 0, 0);
    struct block gone = *draw_block();
    heap->free((void *)gone.pointer);
    tell("asynchronous", &gone);
    touch(gone.pointer);
    getppid();
}

/* What a compiler with -fsanitize=memtag-stack does for one local variable, by hand. */
static volatile char *in_frame(size_t size, size_t reach)
{
    char room[4096 + 64];
    uintptr_t start = ((uintptr_t)room + 15) & ~15UL;
    size = (size + 15) & ~15UL;
    __asm__ volatile("irg %0, %0" : "+r"(start));
    for (size_t at = 0; at < size; at += 16)
        __asm__ volatile("stg %0, [%0]" : : "r"(start + at) : "memory");
    struct block local = { (volatile char *)start, size };
    if (reach) {
        tell("stack-buffer-overflow", &local);
        touch(local.pointer + size + reach - 1);
    } else {
        tell("stack-use-after-return", &local);
    }
    uintptr_t plain = start & ~(15UL << 56);
    for (size_t at = 0; at < size; at += 16)
        __asm__ volatile("stg %0, [%0]" : : "r"(plain + at) : "memory");
    return local.pointer;
}

static void tag_the_stack(void)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0) & ~(PAGE - 1);
    if (mprotect((void *)(here - 4 * PAGE), 5 * PAGE, PROT_READ | PROT_WRITE | PROT_MTE))
        _exit(4);
}

static void stack_overflow(const struct allocator *heap)
{
    (void)heap;
    tag_the_stack();
    in_frame(16 + draw(200), 1 + draw(24));
}

static void stack_use_after_return(const struct allocator *heap)
{
    (void)heap;
    tag_the_stack();
    size_t size = 16 + draw(200);
    touch(in_frame(size, 0) + draw(size));
}

static const struct deed {
    void (*act)(const struct allocator *);
    unsigned share;
} deeds[] = {
    { overflow, 30 }, { underflow, 7 }, { touch_freed, 20 }, { touch_reused, 14 },
    { free_twice, 4 }, { lost_pointer_tag, 6 }, { wild_pointer, 6 }, { lost_memory_tags, 4 },
    { stack_overflow, 2 }, { stack_use_after_return, 3 }, { asynchronous, 4 },
};

int main(int count, char **arguments)
{
    if (count != 3)
        return 2;
    const struct allocator *heap =
        strcmp(arguments[1], "simple") ? &libc_allocator : &simple_allocator;
    if (getenv("MISHAP_ODD_EVEN"))
        mallopt(M_MEMTAG_TUNING, M_MEMTAG_TUNING_BUFFER_OVERFLOW);
    if (getenv("MISHAP_RECORDS") && malloc_set_track_allocation_stacks)
        malloc_set_track_allocation_stacks(1);
    seed = strtoull(arguments[2], NULL, 0);
    if (getenv("MISHAP_HANDLER"))
        handle_faults();
    churn(heap);
    uint64_t drawn = draw(100);
    for (size_t i = 0; i < sizeof deeds / sizeof *deeds; i++) {
        if (drawn < deeds[i].share) {
            deeds[i].act(heap);
            return 0;
        }
        drawn -= deeds[i].share;
    }
    return 5;
}
