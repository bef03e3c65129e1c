/* What the program prints: a line per second, and why it failed. */
#include "keeper.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000
#define LINE_BYTES 512

/* One write per line, so that lines of threads and children never mix. */
static void print_line(const char *kind, const char *text) {
    char line[LINE_BYTES];
    int length = snprintf(line, sizeof line, "tagkeeper: %s %s\n", kind, text);
    if (length >= (int)sizeof line) {
        length = sizeof line;
        line[sizeof line - 1] = '\n';
    }
    if (write(STDOUT_FILENO, line, (size_t)length) < 0)
        _exit(2);
}

void fail(const char *format, ...) {
    char text[LINE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_line("FAIL", text);
    _exit(1);
}

int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec;
}

static void sleep_until(int64_t due_ns) {
    struct timespec due = {due_ns / NS_PER_S, due_ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR)
        ;
}

static void print_progress(struct keeper *keepers, int64_t elapsed_ns, int64_t gap_ns) {
    uint64_t checked = 0, changed = 0, faults = 0, children = 0;
    for (struct keeper *each = keepers; each < keepers + knobs.threads; each++) {
        checked += each->counts.checked;
        changed += each->counts.changed;
        faults += each->counts.faults;
        children += each->counts.children;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    char text[LINE_BYTES];
    snprintf(text, sizeof text,
             "seconds=%lld checked=%llu changed=%llu faults=%llu signals=%llu children=%llu "
             "longest_gap_ms=%lld major_faults=%ld mode=%s",
             (long long)(elapsed_ns / NS_PER_S), (unsigned long long)checked,
             (unsigned long long)changed, (unsigned long long)faults,
             (unsigned long long)signals_taken(), (unsigned long long)children,
             (long long)(gap_ns / 1000000), usage.ru_majflt, mode_name());
    print_line("progress", text);
}

/* Prints a line per second of the guest's own clock, and watches that clock. */
void report_forever(struct keeper *keepers) {
    int64_t start = monotonic_ns(), last = start, longest_gap = 0;
    for (int64_t due = start + NS_PER_S;; due = last + NS_PER_S) {
        sleep_until(due);
        int64_t now = monotonic_ns();
        if (now < due)
            fail("CLOCK_MONOTONIC: a sleep until %lld ended at %lld", (long long)due,
                 (long long)now);
        longest_gap = now - last > longest_gap ? now - last : longest_gap;
        last = now;
        print_progress(keepers, now - start, longest_gap);
        if (knobs.seconds && now - start >= (int64_t)knobs.seconds * NS_PER_S)
            _exit(0);
    }
}
