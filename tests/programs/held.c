/* A process of a Linux guest that fails a tag check and holds still, to be looked at.
 *
 *     held handler       it writes 4 bytes behind its first block; its handler of SIGSEGV spins
 *     held system-call   write(2) reads the first granule of the second block by a pointer
 *                        with another tag: EFAULT, then it spins
 *
 * Two blocks lie side by side in tagged memory, of 48 and 32 bytes, with tags 3 and 5. */
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PROT_MTE 0x20
#define GRANULE 16UL
#define TAG(pointer, tag) ((char *)((uintptr_t)(pointer) | (uintptr_t)(tag) << 56))

static void say(const char *line)
{
    if (write(1, line, strlen(line)) < 0)
        _exit(1);
}

static void spin(int number)
{
    (void)number;
    say("held: holds still\n");
    for (;;)
        __asm__ volatile("");
}

static void tag(char *pointer, size_t size)
{
    for (size_t at = 0; at < size; at += GRANULE)
        __asm__ volatile("stg %0, [%0]" : : "r"(pointer + at) : "memory");
}

__attribute__((noinline)) static void write_behind(char *block)
{
    __asm__ volatile("str wzr, [%0, #52]" : : "r"(block) : "memory");
}

int main(int count, char **arguments)
{
    prctl(PR_SET_TAGGED_ADDR_CTRL,
          PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | 0xfffeUL << PR_MTE_TAG_SHIFT, 0, 0, 0);
    char *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_MTE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *first = TAG(memory + 256, 3), *second = TAG(memory + 256 + 48, 5);
    tag(first, 48);
    tag(second, 32);
    if (count > 1 && !strcmp(arguments[1], "system-call")) {
        say("held: holds still\n");
        if (write(1, TAG(memory + 256 + 48, 9), 8) > 0)
            _exit(2);
        for (;;)
            __asm__ volatile("");
    }
    signal(SIGSEGV, spin);
    write_behind(first);
    return 0;
}
