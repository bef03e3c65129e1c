/* Tag check faults, provoked on purpose: they must come when and where the mode says. */
#include "keeper.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define SEGV_MTEAERR_CODE 8 /* asynchronous: no address */
#define SEGV_MTESERR_CODE 9
#define ALL_TAGS (0xffffUL << PR_MTE_TAG_SHIFT)
#define INSTRUCTION_BYTES 4
#define MAX_CPUS 512
#define ADDRESS_MASK ((1UL << 56) - 1) /* the tag of a fault's address is not always there */

/* Which fault the thread expects, and what came. */
static _Thread_local struct {
    uintptr_t address; /* 0: none is expected */
    int code;
    uintptr_t found_address;
} awaited;

static void on_fault(int number, siginfo_t *info, void *context) {
    ucontext_t *interrupted = context;
    bool is_tag_fault = info->si_code == SEGV_MTESERR_CODE || info->si_code == SEGV_MTEAERR_CODE;
    if (number != SIGSEGV || !is_tag_fault || !awaited.address)
        fail("unexpected signal %d code=%d address=%p pc=%#llx", number, info->si_code,
             info->si_addr, (unsigned long long)interrupted->uc_mcontext.pc);
    awaited.code = info->si_code;
    awaited.found_address = (uintptr_t)info->si_addr & ADDRESS_MASK;
    /* The access of a synchronous fault has not happened and must not be tried again. */
    if (info->si_code == SEGV_MTESERR_CODE)
        interrupted->uc_mcontext.pc += INSTRUCTION_BYTES;
}

bool catch_faults(void) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    return !sigaction(SIGSEGV, &action, NULL) && !sigaction(SIGBUS, &action, NULL) &&
           !sigaction(SIGILL, &action, NULL);
}

/* Each CPU has a mode that it prefers among those that a thread allows. */
static void prefer(const char *mode) {
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        char path[64];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/mte_tcf_preferred", cpu);
        int file = open(path, O_WRONLY);
        if (file < 0)
            return;
        if (write(file, mode, strlen(mode)) < 0)
            fail("cannot write %s to %s", mode, path);
        close(file);
    }
}

bool set_mode(void) {
    static const unsigned long checks[MODE_COUNT] = {
        [MODE_NONE] = PR_MTE_TCF_NONE,
        [MODE_SYNC] = PR_MTE_TCF_SYNC,
        [MODE_ASYNC] = PR_MTE_TCF_ASYNC,
        [MODE_ASYMM] = PR_MTE_TCF_SYNC | PR_MTE_TCF_ASYNC,
    };
    if (knobs.mode == MODE_ASYMM)
        prefer("asymm");
    return !prctl(PR_SET_TAGGED_ADDR_CTRL, PR_TAGGED_ADDR_ENABLE | checks[knobs.mode] | ALL_TAGS,
                  0, 0, 0);
}

static void store_wrongly(uint8_t *pointer, uint64_t value) {
    __asm__ volatile("str %0, [%1]" : : "r"(value), "r"(pointer) : "memory");
}

static void load_wrongly(uint8_t *pointer) {
    uint64_t value;
    __asm__ volatile("ldr %0, [%1]" : "=r"(value) : "r"(pointer) : "memory");
}

/* A load, or a store of what is there already: an asynchronous fault does not prevent it. */
static void expect_fault(struct keeper *keeper, bool is_store, int code) {
    uint32_t granule = draw_granule(keeper);
    uint8_t *right = tagged_pointer(keeper, granule);
    uint8_t *wrong = (uint8_t *)((uintptr_t)right ^ 1UL << 56);
    uintptr_t address = (uintptr_t)(keeper->memory + (size_t)granule * GRANULE_BYTES);
    uint64_t value = *(volatile uint64_t *)right;
    awaited.code = 0;
    awaited.found_address = 0;
    awaited.address = address;
    if (is_store)
        store_wrongly(wrong, value);
    else
        load_wrongly(wrong);
    syscall(SYS_getpid); /* an asynchronous fault is told at the next entry to the kernel */
    awaited.address = 0;
    if (awaited.code != code)
        fail("thread=%u granule=%#x %s with a wrong tag: expected code %d got %d", keeper->number,
             granule, is_store ? "store" : "load", code, awaited.code);
    if (code == SEGV_MTESERR_CODE && awaited.found_address != address)
        fail("thread=%u granule=%#x fault address: expected %#lx got %#lx", keeper->number, granule,
             address, awaited.found_address);
    keeper->counts.faults += code != 0;
}

void provoke_faults(struct keeper *keeper) {
    static const int codes[MODE_COUNT][2] = {
        [MODE_NONE] = {0, 0},
        [MODE_SYNC] = {SEGV_MTESERR_CODE, SEGV_MTESERR_CODE},
        [MODE_ASYNC] = {SEGV_MTEAERR_CODE, SEGV_MTEAERR_CODE},
        [MODE_ASYMM] = {SEGV_MTESERR_CODE, SEGV_MTEAERR_CODE},
    };
    for (int is_store = 0; is_store <= 1; is_store++)
        expect_fault(keeper, is_store, codes[knobs.mode][is_store]);
}
