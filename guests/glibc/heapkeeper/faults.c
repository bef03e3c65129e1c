/* What a tagged heap is for: a use after free and an overflow are faults. */
#include "heap.h"

#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SEGV_MTEAERR_CODE 8 /* asynchronous: no address */
#define SEGV_MTESERR_CODE 9
#define INSTRUCTION_BYTES 4
#define BLOCK_BYTES 40

static _Thread_local struct {
    bool is_expected;
    int code;
} awaited;

static void on_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *interrupted = context;
    bool is_tag_fault = info->si_code == SEGV_MTESERR_CODE || info->si_code == SEGV_MTEAERR_CODE;
    if (!is_tag_fault || !awaited.is_expected)
        fail("unexpected signal %d code=%d address=%p pc=%#llx", number, info->si_code,
             info->si_addr, (unsigned long long)interrupted->uc_mcontext.pc);
    awaited.code = info->si_code;
    if (info->si_code == SEGV_MTESERR_CODE)
        interrupted->uc_mcontext.pc += INSTRUCTION_BYTES;
}

bool catch_faults(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    return !sigaction(SIGSEGV, &action, NULL);
}

static void load(const uint8_t *pointer) {
    uint64_t value;
    __asm__ volatile("ldrb %w0, [%1]" : "=r"(value) : "r"(pointer) : "memory");
}

/* The thread's mode says which fault comes; where both are allowed, its CPU prefers one. */
static bool is_right(int code) {
    long control = prctl(PR_GET_TAGGED_ADDR_CTRL, 0, 0, 0, 0);
    return control > 0 && ((code == SEGV_MTESERR_CODE && control & (long)PR_MTE_TCF_SYNC) ||
                           (code == SEGV_MTEAERR_CODE && control & (long)PR_MTE_TCF_ASYNC));
}

static void expect_fault(struct heap *heap, const uint8_t *pointer, const char *what) {
    awaited.code = 0;
    awaited.is_expected = true;
    load(pointer);
    syscall(SYS_getpid); /* an asynchronous fault is told at the next entry to the kernel */
    awaited.is_expected = false;
    if (!is_right(awaited.code))
        fail("thread=%u %s at %p: no tag check fault of this thread's mode, code %d", heap->number,
             what, (const void *)pointer, awaited.code);
    heap->counts.faults++;
}

void provoke_faults(struct heap *heap) {
    uint8_t *block = malloc(BLOCK_BYTES);
    if (!block)
        fail("thread=%u no memory", heap->number);
    size_t usable = malloc_usable_size(block);
    size_t granules = (usable + GRANULE_BYTES - 1) / GRANULE_BYTES;
    expect_fault(heap, block + granules * GRANULE_BYTES, "a load behind a block");
    /* The compiler must not see that this is the block that was given back. */
    uint8_t *dangling = block;
    __asm__ volatile("" : "+r"(dangling));
    free(block);
    expect_fault(heap, dangling, "a load of a block that was given back");
}
