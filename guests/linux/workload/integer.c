/* What a compiler does all day: sorts, hashes names, parses and computes expressions. */
#include <stdbool.h>
#include <stddef.h>

#include "work.h"

#define NUMBERS 4096
#define SLOTS 2048
#define TEXT_BYTES 8192
#define NAMES 64
#define SEED 0x9e3779b97f4a7c15u

static uint32_t numbers[NUMBERS];
static struct {
    uint32_t hash;
    uint32_t value;
} symbols[SLOTS];
static char text[TEXT_BYTES + 1];

/* --- sorting --- */

static void sort(uint32_t *low, uint32_t *high) {
    while (high - low > 16) {
        uint32_t pivot = low[(high - low) / 2], *i = low, *j = high - 1;
        for (;; i++, j--) {
            while (*i < pivot)
                i++;
            while (*j > pivot)
                j--;
            if (i >= j)
                break;
            uint32_t kept = *i;
            *i = *j;
            *j = kept;
        }
        sort(low, j + 1);
        low = j + 1;
    }
    for (uint32_t *i = low + 1; i < high; i++) {
        uint32_t value = *i, *j = i;
        for (; j > low && j[-1] > value; j--)
            *j = j[-1];
        *j = value;
    }
}

/* --- hashing --- */

static uint32_t hash_of(const char *name, size_t length) {
    uint32_t hash = 0x811c9dc5u;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (uint8_t)name[i]) * 0x01000193u;
    return hash ? hash : 1;
}

static uint32_t *symbol(const char *name, size_t length) {
    uint32_t hash = hash_of(name, length), slot = hash % SLOTS;
    while (symbols[slot].hash && symbols[slot].hash != hash)
        slot = (slot + 1) % SLOTS;
    symbols[slot].hash = hash;
    return &symbols[slot].value;
}

/* --- parsing: sums of products of names, numbers and parentheses, with assignments --- */

static const char *at;

static uint32_t sum(void);

static bool is_letter(char c) {
    return c >= 'a' && c <= 'z';
}

static uint32_t factor(void) {
    if (*at == '(') {
        at++;
        uint32_t value = sum();
        at++; /* the closing one: the text is made well-formed */
        return value;
    }
    if (is_letter(*at)) {
        const char *name = at;
        while (is_letter(*at))
            at++;
        return *symbol(name, (size_t)(at - name));
    }
    uint32_t value = 0;
    while (*at >= '0' && *at <= '9')
        value = value * 10 + (uint32_t)(*at++ - '0');
    return value;
}

static uint32_t product(void) {
    uint32_t value = factor();
    while (*at == '*' || *at == '/') {
        bool divide = *at++ == '/';
        uint32_t other = factor();
        value = divide ? value / (other | 1) : value * other;
    }
    return value;
}

static uint32_t sum(void) {
    uint32_t value = product();
    while (*at == '+' || *at == '-') {
        bool minus = *at++ == '-';
        uint32_t other = product();
        value = minus ? value - other : value + other;
    }
    return value;
}

/* --- making the text --- */

static char *put_name(char *to, uint64_t *random) {
    uint64_t drawn = next_random(random) % NAMES;
    *to++ = (char)('a' + drawn % 26);
    *to++ = (char)('a' + drawn / 26);
    for (uint64_t more = drawn % 5; more; more--)
        *to++ = (char)('k' + more);
    return to;
}

static char *put_expression(char *to, uint64_t *random, unsigned depth) {
    for (unsigned terms = 1 + next_random(random) % 4; terms; terms--) {
        uint64_t kind = next_random(random) % 4;
        if (kind == 0 && depth) {
            *to++ = '(';
            to = put_expression(to, random, depth - 1);
            *to++ = ')';
        } else if (kind == 1) {
            for (uint64_t number = next_random(random) % 100000; number; number /= 10)
                *to++ = (char)('0' + number % 10);
        } else {
            to = put_name(to, random);
        }
        if (terms > 1)
            *to++ = "+-*/"[next_random(random) % 4];
    }
    return to;
}

/* A statement has at most 4 terms in 4 terms in 4, of at most 7 bytes and an operator each. */
#define STATEMENT_BYTES 1024

static void make_text(uint64_t *random) {
    char *to = text;
    while (text + TEXT_BYTES - to > STATEMENT_BYTES) {
        to = put_name(to, random);
        *to++ = '=';
        to = put_expression(to, random, 2);
        *to++ = ';';
    }
    *to = '\0';
}

static uint32_t run_text(void) {
    uint32_t all = 0;
    for (at = text; *at; at++) {
        const char *name = at;
        while (is_letter(*at))
            at++;
        uint32_t *variable = symbol(name, (size_t)(at - name));
        at++;
        all = all * 31 + (*variable = sum());
    }
    return all;
}

uint64_t work_integer(uint64_t rounds) {
    uint64_t random = SEED, all = 0;
    for (; rounds; rounds--) {
        for (size_t i = 0; i < NUMBERS; i++)
            numbers[i] = (uint32_t)next_random(&random);
        sort(numbers, numbers + NUMBERS);
        make_text(&random);
        for (unsigned pass = 0; pass < 8; pass++)
            all = all * 31 + run_text() + numbers[pass * (NUMBERS / 8)];
    }
    return all;
}
