/* clockwatch [SECONDS]: watches CLOCK_MONOTONIC on every CPU, for ever or for so many seconds.
 *
 * A thread per CPU reads the clock and compares it with the latest time that any thread has read: a
 * clock that went back, on one CPU or from one to another, ends the program with status 1. Once a
 * second it reports, with the largest step from a read to the next of one thread: while a VM is
 * paused or moves its time stands, so that this is no larger than what the scheduler takes.
 * Status 2: it could not start. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CANNOT_START 2
#define MAX_CPUS 512
#define NS_PER_S 1000000000L
#define NS_PER_MS 1000000L
#define READS_PER_SLEEP 1000
#define SLEEP_NS (2 * NS_PER_MS)

static _Atomic int64_t latest_ns;
static _Atomic int64_t largest_step_ns;
static _Atomic uint64_t reads;

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * NS_PER_S + now.tv_nsec;
}

_Noreturn static void fail(long cpu, int64_t before_ns, int64_t now_ns) {
    printf("clockwatch: FAIL cpu=%ld CLOCK_MONOTONIC went from %lld back to %lld\n", cpu,
           (long long)before_ns, (long long)now_ns);
    fflush(stdout);
    _exit(EXIT_FAILURE);
}

static void raise_to(_Atomic int64_t *place, int64_t value) {
    int64_t before = atomic_load(place);
    while (before < value && !atomic_compare_exchange_weak(place, &before, value))
        ;
}

/* Returns the time, which no thread may have seen later. */
static int64_t watched_ns(long cpu) {
    int64_t before_ns = atomic_load(&latest_ns);
    int64_t now_ns = monotonic_ns();
    if (now_ns < before_ns)
        fail(cpu, before_ns, now_ns);
    raise_to(&latest_ns, now_ns);
    return now_ns;
}

static void *watch(void *argument) {
    long cpu = (long)(intptr_t)argument;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    sched_setaffinity(0, sizeof(set), &set); /* or wherever it runs: the clock is the same */
    for (;;) {
        int64_t last_ns = watched_ns(cpu);
        for (unsigned turn = 0; turn < READS_PER_SLEEP; turn++) {
            int64_t now_ns = watched_ns(cpu);
            raise_to(&largest_step_ns, now_ns - last_ns);
            last_ns = now_ns;
        }
        atomic_fetch_add(&reads, READS_PER_SLEEP);
        nanosleep(&(struct timespec){0, SLEEP_NS}, NULL);
    }
    return NULL;
}

static bool read_seconds(int count, char **words, long *seconds) {
    char *end;
    *seconds = 0;
    if (count > 1)
        *seconds = strtol(words[1], &end, 10);
    return count == 1 || (count == 2 && *words[1] && !*end && *seconds >= 0);
}

int main(int count, char **words) {
    long seconds, cpus = sysconf(_SC_NPROCESSORS_ONLN);
    if (!read_seconds(count, words, &seconds)) {
        fprintf(stderr, "clockwatch: give a number of seconds, or nothing to watch for ever\n");
        return CANNOT_START;
    }
    for (long cpu = 0; cpu < cpus && cpu < MAX_CPUS; cpu++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, watch, (void *)(intptr_t)cpu)) {
            fprintf(stderr, "clockwatch: cannot start a thread for CPU %ld\n", cpu);
            return CANNOT_START;
        }
    }
    for (long second = 1; !seconds || second <= seconds; second++) {
        sleep(1);
        printf("clockwatch: progress seconds=%ld cpus=%ld reads=%llu largest-step-ms=%lld\n", second,
               cpus, (unsigned long long)atomic_load(&reads),
               (long long)(atomic_exchange(&largest_step_ns, 0) / NS_PER_MS));
        fflush(stdout);
    }
    printf("clockwatch: PASS\n");
    return EXIT_SUCCESS;
}
