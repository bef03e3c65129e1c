/* The command line: words "key=value", with these keys and defaults. */
#include "keeper.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MIB 4096
#define MAX_THREADS 64

struct knobs knobs = {.mib = 8, .rate = 1000, .threads = 1, .mode = MODE_SYNC};

static const struct {
    const char *key;
    uint64_t *value;
    uint64_t least, most;
} numbers[] = {
    {"mib", &knobs.mib, 1, MAX_MIB},
    {"rate", &knobs.rate, 0, 1000000000},
    {"threads", &knobs.threads, 1, MAX_THREADS},
    {"seconds", &knobs.seconds, 0, 1000000000},
    {"forks", &knobs.forks, 0, 1},
    {"signals", &knobs.signals, 0, 1},
    {"pageout", &knobs.pageout, 0, 1},
};

static const char *const modes[MODE_COUNT] = {"none", "sync", "async", "asymm"};

const char *mode_name(void) {
    return modes[knobs.mode];
}

static bool set_number(const char *key, const char *text) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        if (strcmp(key, numbers[i].key))
            continue;
        char *end;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        *numbers[i].value = value;
        return !errno && end != text && !*end && *text != '-' && value >= numbers[i].least &&
               value <= numbers[i].most;
    }
    return false;
}

static bool set_knob(const char *key, const char *text) {
    if (strcmp(key, "mode"))
        return set_number(key, text);
    for (knobs.mode = 0; knobs.mode < MODE_COUNT; knobs.mode++)
        if (!strcmp(text, modes[knobs.mode]))
            return true;
    return false;
}

bool read_knobs(int count, char **words) {
    for (int i = 1; i < count; i++) {
        char *value = strchr(words[i], '=');
        if (value)
            *value++ = '\0';
        if (!value || !set_knob(words[i], value)) {
            fprintf(stderr,
                    "tagkeeper: cannot use %s%s%s; there are mib=1..%d rate=0..1000000000 "
                    "threads=1..%d seconds=N forks=0|1 signals=0|1 pageout=0|1 "
                    "mode=none|sync|async|asymm\n",
                    words[i], value ? "=" : "", value ? value : "", MAX_MIB, MAX_THREADS);
            return false;
        }
    }
    return true;
}
