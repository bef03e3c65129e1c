/* Lines on the PL011. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdarg.h>

#include "types.h"

void console_init(void);

/* Prints one line (the newline is added here) which no other vCPU can break into.
 *
 * Knows %s %c %d %u %x and the flags #, 0, a width and l; longer lines are cut. */
void console_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same into a buffer: returns the length, always NUL terminated. */
size_t format_text(char *buffer, size_t bytes, const char *format, va_list arguments);

#endif
