/* heapkeeper [threads=N] [blocks=N] [forks=0|1] [seconds=N]: see heap.h. Status 1: something was
 * wrong; 2: it could not start, for instance because the C library does not tag its heap. */
#include "heap.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CANNOT_START 2
#define LINE_BYTES 512
#define NS_PER_S 1000000000
#define TURNS 256
#define CHILD_TURNS 64

struct knobs knobs = {.threads = 1, .blocks = 512};

static const struct {
    const char *key;
    uint64_t *value;
    uint64_t least, most;
} numbers[] = {
    {"threads", &knobs.threads, 1, 64},
    {"blocks", &knobs.blocks, 1, 1 << 20},
    {"forks", &knobs.forks, 0, 1},
    {"seconds", &knobs.seconds, 0, 1000000000},
};

/* One write per line, so that lines of threads and children never mix. */
static void print_line(const char *kind, const char *text) {
    char line[LINE_BYTES];
    int length = snprintf(line, sizeof line, "heapkeeper: %s %s\n", kind, text);
    if (length >= (int)sizeof line) {
        length = sizeof line;
        line[sizeof line - 1] = '\n';
    }
    if (write(STDOUT_FILENO, line, (size_t)length) < 0)
        _exit(CANNOT_START);
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

static bool set_knob(const char *word) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        size_t length = strlen(numbers[i].key);
        if (strncmp(word, numbers[i].key, length) || word[length] != '=')
            continue;
        const char *text = word + length + 1;
        char *end;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        *numbers[i].value = value;
        return !errno && end != text && !*end && *text != '-' && value >= numbers[i].least &&
               value <= numbers[i].most;
    }
    return false;
}

bool read_knobs(int count, char **words) {
    for (int i = 1; i < count; i++)
        if (!set_knob(words[i])) {
            fprintf(stderr,
                    "heapkeeper: cannot use %s; there are threads=1..64 blocks=1..1048576 "
                    "forks=0|1 seconds=N\n",
                    words[i]);
            return false;
        }
    return true;
}

/* A child has the whole heap with its tags, and goes on with it. */
static void check_in_child(struct heap *heap) {
    pid_t child = fork();
    if (child < 0)
        fail("thread=%u cannot fork: errno %d", heap->number, errno);
    if (child == 0) {
        check_all(heap);
        for (unsigned turn = 0; turn < CHILD_TURNS; turn++)
            turn_over(heap);
        check_all(heap);
        _exit(0);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            fail("thread=%u cannot wait for its child: errno %d", heap->number, errno);
    if (status != 0)
        fail("thread=%u its child ended with wait status %#x", heap->number, status);
    heap->counts.children++;
}

static int64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec;
}

static void *keep(void *argument) {
    struct heap *heap = argument;
    if (!fill_heap(heap))
        fail("thread=%u no memory", heap->number);
    for (int64_t due_ns = monotonic_ns();;) {
        for (unsigned turn = 0; turn < TURNS; turn++)
            turn_over(heap);
        if (monotonic_ns() < due_ns)
            continue;
        due_ns = monotonic_ns() + NS_PER_S;
        check_all(heap);
        provoke_faults(heap);
        if (knobs.forks)
            check_in_child(heap);
    }
    return NULL;
}

static void report_forever(struct heap *heaps) {
    for (uint64_t second = 1;; second++) {
        sleep(1);
        uint64_t checked = 0, allocated = 0, faults = 0, children = 0;
        for (struct heap *each = heaps; each < heaps + knobs.threads; each++) {
            checked += each->counts.checked;
            allocated += each->counts.allocated;
            faults += each->counts.faults;
            children += each->counts.children;
        }
        char text[LINE_BYTES];
        snprintf(text, sizeof text,
                 "seconds=%llu checked=%llu allocated=%llu faults=%llu children=%llu",
                 (unsigned long long)second, (unsigned long long)checked,
                 (unsigned long long)allocated, (unsigned long long)faults,
                 (unsigned long long)children);
        print_line("progress", text);
        if (knobs.seconds && second >= knobs.seconds)
            _exit(0);
    }
}

static int cannot_start(const char *what) {
    fprintf(stderr, "heapkeeper: cannot start: %s\n", what);
    return CANNOT_START;
}

int main(int count, char **words) {
    if (!read_knobs(count, words))
        return CANNOT_START;
    struct heap *heaps = calloc(knobs.threads, sizeof *heaps);
    if (!heaps)
        return cannot_start("no memory");
    if (!tag_of_pointer(heaps))
        return cannot_start("the C library does not tag its heap; set "
                            "GLIBC_TUNABLES=glibc.mem.tagging=3 on a system with MTE");
    if (!catch_faults())
        return cannot_start("no handler of signals");
    for (unsigned number = 0; number < knobs.threads; number++) {
        heaps[number].number = number;
        heaps[number].random = number;
        pthread_t thread;
        if (pthread_create(&thread, NULL, keep, &heaps[number]))
            return cannot_start("no thread");
    }
    report_forever(heaps);
}
