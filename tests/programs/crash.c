/* A process that tags memory and then dies of a tag check fault, so that Linux writes a core.
 *
 * Two mappings of known content: TAGGED has PROT_MTE, granule n has the tag n mod 16 and
 * byte n of each page the value n mod 251; PLAIN, the page behind a gap, has the same bytes
 * and no tags. Built for Linux, static, by native/toolchain.py; run in the lab. */
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define PROT_MTE 0x20
#define PAGE 4096
#define GRANULE 16
#define TAGGED 0x500000000000
#define TAGGED_PAGES 3
#define PLAIN 0x500000010000
#define TAG(pointer, tag) ((volatile char *)((uintptr_t)(pointer) | (uint64_t)(tag) << 56))

static char *map(uintptr_t address, size_t size, int protection)
{
    char *memory = mmap((void *)address, size, PROT_READ | PROT_WRITE | protection,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    for (size_t i = 0; memory != MAP_FAILED && i < size; i++)
        memory[i] = (char)(i % PAGE % 251);
    return memory;
}

int main(void)
{
    unsigned long control = PR_TAGGED_ADDR_ENABLE | PR_MTE_TCF_SYNC | 0xfffeUL << PR_MTE_TAG_SHIFT;
    if (prctl(PR_SET_TAGGED_ADDR_CTRL, control, 0, 0, 0))
        return 2; /* no MTE here */
    char *tagged = map(TAGGED, TAGGED_PAGES * PAGE, PROT_MTE);
    if (tagged == MAP_FAILED || map(PLAIN, PAGE, 0) == MAP_FAILED)
        return 3;
    for (size_t i = 0; i < TAGGED_PAGES * PAGE; i += GRANULE)
        __asm__ volatile("stg %0, [%0]" : : "r"(TAG(tagged + i, i / GRANULE % 16)) : "memory");
    return *TAG(tagged + 5 * GRANULE, 6); /* granule 5 has tag 5 */
}
