#include "console.h"

#define NUMBER_BYTES 24

struct output {
    char *next;
    char *end; /* the place of the last possible NUL */
};

/* One conversion: %[#][0][width][l]letter. */
struct conversion {
    bool prefix;
    bool zeros;
    unsigned width;
    bool is_long;
    char letter;
};

static void emit(struct output *output, char character) {
    if (output->next < output->end)
        *output->next++ = character;
}

static void emit_text(struct output *output, const char *text) {
    while (*text)
        emit(output, *text++);
}

static void emit_number(struct output *output, const struct conversion *conversion, u64 value) {
    char digits[NUMBER_BYTES];
    unsigned base = conversion->letter == 'x' ? 16 : 10, count = 0;
    unsigned width = conversion->width;
    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (conversion->prefix) {
        emit_text(output, "0x");
        width = width > 2 ? width - 2 : 0;
    }
    for (; width > count; width--)
        emit(output, conversion->zeros ? '0' : ' ');
    while (count)
        emit(output, digits[--count]);
}

static const char *parse_conversion(const char *format, struct conversion *conversion) {
    *conversion = (struct conversion){0};
    if (*format == '#') {
        conversion->prefix = true;
        format++;
    }
    if (*format == '0') {
        conversion->zeros = true;
        format++;
    }
    while (*format >= '0' && *format <= '9')
        conversion->width = conversion->width * 10 + (unsigned)(*format++ - '0');
    if (*format == 'l') {
        conversion->is_long = true;
        format++;
    }
    conversion->letter = *format ? *format++ : '%';
    return format;
}

static void emit_signed(struct output *output, const struct conversion *conversion, int64_t value) {
    if (value < 0)
        emit(output, '-');
    emit_number(output, conversion, value < 0 ? -(u64)value : (u64)value);
}

static void emit_conversion(struct output *output, const struct conversion *conversion,
                            va_list *arguments) {
    switch (conversion->letter) {
    case 's':
        emit_text(output, va_arg(*arguments, const char *));
        break;
    case 'c':
        emit(output, (char)va_arg(*arguments, int));
        break;
    case 'd':
        emit_signed(output, conversion,
                    conversion->is_long ? va_arg(*arguments, int64_t) : va_arg(*arguments, int));
        break;
    case 'u':
    case 'x':
        emit_number(output, conversion,
                    conversion->is_long ? va_arg(*arguments, u64) : va_arg(*arguments, u32));
        break;
    default:
        emit(output, conversion->letter);
    }
}

size_t format_text(char *buffer, size_t bytes, const char *format, va_list arguments) {
    struct output output = {buffer, buffer + bytes - 1};
    struct conversion conversion;
    va_list rest;
    va_copy(rest, arguments);
    while (*format) {
        if (*format != '%') {
            emit(&output, *format++);
            continue;
        }
        format = parse_conversion(format + 1, &conversion);
        emit_conversion(&output, &conversion, &rest);
    }
    va_end(rest);
    *output.next = '\0';
    return (size_t)(output.next - buffer);
}
