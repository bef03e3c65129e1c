#include "boot.h"
#include "console.h"

#define WORD_BYTES 64

bool text_equal(const char *left, const char *right) {
    while (*left && *left == *right) {
        left++;
        right++;
    }
    return *left == *right;
}

/* Copies the next word of the command line and returns what follows, or NULL at the end. */
static const char *next_word(const char *text, char *word) {
    size_t length = 0;
    while (*text == ' ')
        text++;
    if (!*text)
        return NULL;
    while (*text && *text != ' ') {
        if (length < WORD_BYTES - 1)
            word[length++] = *text;
        text++;
    }
    word[length] = '\0';
    return text;
}

/* Cuts "key=value" in two; a word without '=' has an empty value. */
static char *split(char *word) {
    while (*word && *word != '=')
        word++;
    if (*word)
        *word++ = '\0';
    return word;
}

static unsigned suffix_shift(char suffix) {
    return suffix == 'K' ? 10 : suffix == 'M' ? 20 : suffix == 'G' ? 30 : 0;
}

static bool parse_number(const char *text, u64 *value) {
    u64 number = 0;
    if (!*text)
        return false;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (number >= 1UL << 30) /* so that neither ten more nor a suffix overflows */
            return false;
        number = number * 10 + (u64)(*text - '0');
    }
    unsigned shift = suffix_shift(*text);
    *value = number << shift;
    return text[shift ? 1 : 0] == '\0';
}

static bool parse_word(const char *text, const char *const *words, u64 *value) {
    for (u64 i = 0; words[i]; i++) {
        if (text_equal(text, words[i])) {
            *value = i;
            return true;
        }
    }
    return false;
}

static bool set_knob(const struct knob *knob, const char *text) {
    u64 value;
    if (knob->words)
        return parse_word(text, knob->words, knob->value);
    if (!parse_number(text, &value) || value < knob->low || value > knob->high)
        return false;
    *knob->value = value;
    return true;
}

_Noreturn static void refuse(const char *program, const char *key, const char *value) {
    console_line("%s: error: command line: cannot use %s=%s", program, key, value);
    guest_end(GUEST_MISUSED);
}

static const struct knob *find_knob(const struct knob *knobs, size_t count, const char *key) {
    for (size_t i = 0; i < count; i++)
        if (text_equal(knobs[i].key, key))
            return &knobs[i];
    return NULL;
}

void knobs_read(const char *program, const char *command_line, const struct knob *knobs,
                size_t count) {
    char word[WORD_BYTES];
    while ((command_line = next_word(command_line, word))) {
        char *value = split(word);
        const struct knob *knob = find_knob(knobs, count, word);
        if (!knob || !set_knob(knob, value))
            refuse(program, word, value);
    }
}
