/* workload integer|tags|float ROUNDS: work for a CPU to be timed by, and a checksum of the results.
 *
 * Reports how many ticks of the system counter the rounds took. On a machine whose time counts
 * instructions, that is how many instructions they were. Status 1: it could not start. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "work.h"

static const struct {
    const char *name;
    uint64_t (*run)(uint64_t rounds);
} works[] = {{"integer", work_integer}, {"tags", work_tags}, {"float", work_float}};

static uint64_t ticks(void) {
    uint64_t count;
    __asm__ volatile("isb\n\tmrs %0, cntvct_el0" : "=r"(count) : : "memory");
    return count;
}

void fail(const char *what) {
    perror(what);
    exit(EXIT_FAILURE);
}

int main(int argc, char **argv) {
    for (size_t i = 0; argc == 3 && i < sizeof works / sizeof works[0]; i++) {
        if (strcmp(works[i].name, argv[1]))
            continue;
        uint64_t rounds = strtoull(argv[2], NULL, 0), begin = ticks();
        uint64_t sum = works[i].run(rounds), taken = ticks() - begin;
        printf("workload: %s rounds=%llu ticks=%llu sum=%016llx\n", argv[1],
               (unsigned long long)rounds, (unsigned long long)taken, (unsigned long long)sum);
        return EXIT_SUCCESS;
    }
    fprintf(stderr, "workload integer|tags|float ROUNDS\n");
    return EXIT_FAILURE;
}
