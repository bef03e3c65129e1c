/* tagkeeper [KEY=VALUE ...]: keeps tags for ever. Status 1: a granule was wrong; 2: it could not
 * start. See keeper.h for what it does and knobs.c for the keys. */
#include "keeper.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define CANNOT_START 2
#define SLICE_GRANULES 4096
#define NS_PER_S 1000000000
#define UNCHECKED_EVERY 8

static void make_due_changes(struct keeper *keeper, int64_t now_ns) {
    uint64_t milliseconds = (uint64_t)(now_ns - keeper->born_ns) / 1000000;
    uint64_t due = milliseconds * knobs.rate / 1000;
    /* A second's worth at most: after a pause there is nothing to catch up with. */
    if (due - keeper->owed > knobs.rate)
        keeper->owed = due - knobs.rate;
    for (; keeper->owed < due; keeper->owed++)
        change_granule(keeper, draw_granule(keeper));
}

static void do_once_a_second(struct keeper *keeper) {
    provoke_faults(keeper);
    check_vector_registers();
    if (knobs.forks)
        check_in_child(keeper);
    if (knobs.pageout)
        page_out(keeper);
}

static void check_slice(struct keeper *keeper) {
    bool unchecked = ++keeper->turn % UNCHECKED_EVERY == 0;
    set_unchecked(unchecked);
    check_granules(keeper, keeper->cursor, SLICE_GRANULES);
    require_unchecked(unchecked);
    set_unchecked(false);
    keeper->cursor = (keeper->cursor + SLICE_GRANULES) % keeper->granules;
}

static void *keep(void *argument) {
    struct keeper *keeper = argument;
    if (!set_mode())
        fail("thread=%u cannot set its mode", keeper->number);
    keeper->born_ns = monotonic_ns();
    int64_t last_ns = keeper->born_ns, due_ns = keeper->born_ns;
    for (;;) {
        int64_t now_ns = monotonic_ns();
        if (now_ns < last_ns)
            fail("thread=%u CLOCK_MONOTONIC went from %lld back to %lld", keeper->number,
                 (long long)last_ns, (long long)now_ns);
        last_ns = now_ns;
        check_slice(keeper);
        make_due_changes(keeper, now_ns);
        if (now_ns >= due_ns) {
            do_once_a_second(keeper);
            due_ns = now_ns + NS_PER_S;
        }
    }
    return NULL;
}

static int cannot_start(const char *what) {
    fprintf(stderr, "tagkeeper: cannot start: %s\n", what);
    return CANNOT_START;
}

int main(int count, char **words) {
    if (!read_knobs(count, words))
        return CANNOT_START;
    if (!catch_faults() || !set_mode())
        return cannot_start("this system has no memory tagging for user space");
    struct keeper *keepers = calloc(knobs.threads, sizeof *keepers);
    if (!keepers)
        return cannot_start("no memory");
    for (unsigned number = 0; number < knobs.threads; number++) {
        keepers[number].number = number;
        keepers[number].random = number;
        if (!create_memory(&keepers[number]))
            return cannot_start("no memory with PROT_MTE");
    }
    if (knobs.signals && !start_signals())
        return cannot_start("no timer");
    for (unsigned number = 0; number < knobs.threads; number++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, keep, &keepers[number]))
            return cannot_start("no thread");
    }
    report_forever(keepers);
}
