/* A timer's signals, which interrupt threads between any two instructions. PSTATE.TCO turns
 * checking off; a signal handler starts with it clear, and the interrupted code finds its own. */
#include "keeper.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#define PERIOD_US 10000
#define WATCHED_GRANULES 64
#define WATCHED_BYTES 4096

static uint8_t *watched; /* its granule n has tag n mod 16; only the handler looks at it */
static _Atomic uint64_t taken;

static bool is_unchecked(void) {
    uint64_t value;
    __asm__ volatile("mrs %0, tco" : "=r"(value));
    return value >> 25 & 1;
}

void set_unchecked(bool unchecked) {
    if (unchecked)
        __asm__ volatile("msr tco, #1" : : : "memory");
    else
        __asm__ volatile("msr tco, #0" : : : "memory");
}

void require_unchecked(bool unchecked) {
    if (is_unchecked() != unchecked)
        fail("PSTATE.TCO: expected %d got %d", unchecked, !unchecked);
}

static uint8_t *watched_pointer(unsigned granule) {
    uintptr_t tag = granule % TAG_COUNT;
    return (uint8_t *)((uintptr_t)(watched + granule * GRANULE_BYTES) | tag << 56);
}

static void on_alarm(int number) {
    (void)number;
    if (is_unchecked())
        fail("a signal handler started with PSTATE.TCO set");
    for (unsigned granule = 0; granule < WATCHED_GRANULES; granule++) {
        uintptr_t pointer = (uintptr_t)(watched + granule * GRANULE_BYTES);
        __asm__ volatile("ldg %0, [%0]" : "+r"(pointer) : : "memory");
        unsigned found = pointer >> 56 & (TAG_COUNT - 1);
        if (found != granule % TAG_COUNT)
            fail("granule=%#x of the signal handler: expected tag %#x got %#x", granule,
                 granule % TAG_COUNT, found);
        if (*(volatile uint8_t *)watched_pointer(granule) != granule)
            fail("granule=%#x of the signal handler: its data are wrong", granule);
    }
    taken++;
}

uint64_t signals_taken(void) {
    return taken;
}

bool start_signals(void) {
    watched = mmap(NULL, WATCHED_BYTES, PROT_READ | PROT_WRITE | PROT_MTE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (watched == MAP_FAILED)
        return false;
    for (unsigned granule = 0; granule < WATCHED_GRANULES; granule++) {
        __asm__ volatile("stg %0, [%0]" : : "r"(watched_pointer(granule)) : "memory");
        *watched_pointer(granule) = (uint8_t)granule;
    }
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    action.sa_flags = SA_RESTART;
    struct itimerval period = {{0, PERIOD_US}, {0, PERIOD_US}};
    return !sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &period, NULL);
}
