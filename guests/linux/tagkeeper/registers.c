/* The vector registers, which the kernel saves and restores when it switches threads. */
#include "keeper.h"

#include <string.h>
#include <sys/syscall.h>

#define VECTORS 32
#define SPINS 20000

/* Loads all vector registers from `from`, spins, lets others run, and stores them to `to`. */
static void pass_through(const uint64_t *from, uint64_t *to) {
    register uint64_t call __asm__("x8") = SYS_sched_yield;
    register uint64_t result __asm__("x0") = 0;
    uint64_t spins = SPINS;
    __asm__ volatile(
        ".irp n, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30\n\t"
        "ldr q\\n, [%[from], #16 * \\n]\n\t"
        ".endr\n\t"
        ".irp n, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31\n\t"
        "ldr q\\n, [%[from], #16 * \\n]\n\t"
        ".endr\n\t"
        "1: subs %[spins], %[spins], #1\n\t"
        "b.ne 1b\n\t"
        "svc #0\n\t"
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n\t"
        "str q\\n, [%[to], #16 * \\n]\n\t"
        ".endr\n\t"
        ".irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31\n\t"
        "str q\\n, [%[to], #16 * \\n]\n\t"
        ".endr"
        : "+r"(result), [spins] "+r"(spins)
        : "r"(call), [from] "r"(from), [to] "r"(to)
        : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11",
          "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v24",
          "v25", "v26", "v27", "v28", "v29", "v30", "v31");
}

void check_vector_registers(void) {
    uint64_t before[2 * VECTORS], after[2 * VECTORS];
    uint64_t seed = (uint64_t)monotonic_ns();
    for (unsigned word = 0; word < 2 * VECTORS; word++)
        before[word] = (seed + word) * 0x9e3779b97f4a7c15;
    memset(after, 0, sizeof after);
    pass_through(before, after);
    for (unsigned word = 0; word < 2 * VECTORS; word++)
        if (after[word] != before[word])
            fail("vector register v%u, word %u: expected %#llx got %#llx", word / 2, word % 2,
                 (unsigned long long)before[word], (unsigned long long)after[word]);
}
