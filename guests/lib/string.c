/* The four functions that the compiler calls on its own. */
#include "types.h"

/* Without this the loops would be turned into calls of themselves. */
#define PLAIN_LOOPS __attribute__((no_builtin))

PLAIN_LOOPS void *memset(void *to, int value, size_t bytes) {
    u8 *out = to;
    while (bytes--)
        *out++ = (u8)value;
    return to;
}

PLAIN_LOOPS void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    u8 *out = to;
    const u8 *in = from;
    while (bytes--)
        *out++ = *in++;
    return to;
}

PLAIN_LOOPS void *memmove(void *to, const void *from, size_t bytes) {
    u8 *out = to;
    const u8 *in = from;
    if (out <= in)
        return memcpy(to, from, bytes);
    while (bytes--)
        out[bytes] = in[bytes];
    return to;
}

PLAIN_LOOPS int memcmp(const void *left, const void *right, size_t bytes) {
    const u8 *a = left, *b = right;
    for (size_t i = 0; i < bytes; i++)
        if (a[i] != b[i])
            return a[i] - b[i];
    return 0;
}
