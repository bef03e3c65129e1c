/* paged: maps RAM through TTBR1_EL1, with a granule of choice, and tags it through that map.
 *
 * At 39-bit addresses from UPPER on, with the memory type in brackets:
 *
 *     WINDOW   pages of the pool, the last one first [Tagged]
 *              one page of the pool [untagged], the UART's page [device], nothing
 *     BLOCK    a level 2 block that begins where RAM begins [Tagged]; may reach beyond RAM
 *
 * Each granule of the window holds the pointer that it was written through: its virtual
 * address with its allocation tag, which is (page + granule) modulo 16. */
#include "boot.h"
#include "console.h"
#include "layout.h"
#include "mte.h"
#include "vcpu.h"

#define UPPER 0xffffff8000000000UL
#define UPPER_BITS 39
#define WINDOW (UPPER + 0x100000000UL)
#define BLOCK (UPPER + 0x200000000UL)
#define WINDOW_PAGES 8
#define UNTAGGED_PAGE WINDOW_PAGES
#define DEVICE_PAGE (WINDOW_PAGES + 1)

#define MAX_GRANULE 65536
#define TABLES 8

struct granule {
    unsigned bits;
    u64 tg1; /* TCR_EL1.TG1 */
};

enum { GRANULE_4K, GRANULE_16K, GRANULE_64K };
static const char *const granule_words[] = {"4K", "16K", "64K", NULL};
static const struct granule granules[] = {{12, 2}, {14, 1}, {16, 3}};

static u8 tables[TABLES][MAX_GRANULE] __attribute__((aligned(MAX_GRANULE)));
static u8 pool[(WINDOW_PAGES + 1) * MAX_GRANULE] __attribute__((aligned(MAX_GRANULE)));
static unsigned used_tables;
static unsigned granule_bits;

void unexpected_exception(struct frame *frame) {
    console_line("paged: FAIL unexpected exception esr=%#lx far=%#lx elr=%#lx", frame->esr,
                 frame->far, frame->elr);
    guest_end(GUEST_FAILED);
}

static u64 granule_size(void) {
    return 1UL << granule_bits;
}

static unsigned level_shift(unsigned level) {
    return granule_bits + (granule_bits - 3) * (3 - level);
}

static unsigned first_level(void) {
    unsigned level = 3;
    while (level_shift(level) + granule_bits - 3 < UPPER_BITS)
        level--;
    return level;
}

static u64 *new_table(void) {
    return (u64 *)tables[used_tables++];
}

/* The descriptor of `address` at `level`, with the tables above it. */
static u64 *descriptor_of(u64 *table, u64 address, unsigned level) {
    u64 offset = address - UPPER;
    for (unsigned above = first_level(); above < level; above++) {
        u64 *entry = &table[offset >> level_shift(above) & ((1UL << (granule_bits - 3)) - 1)];
        if (!*entry)
            *entry = (u64)new_table() | PTE_TABLE;
        table = (u64 *)(*entry & ((1UL << 48) - granule_size()));
    }
    return &table[offset >> level_shift(level) & ((1UL << (granule_bits - 3)) - 1)];
}

static void map(u64 *table, u64 address, unsigned level, u64 gpa, unsigned attribute) {
    u64 kind = level == 3 ? PTE_PAGE : PTE_BLOCK;
    *descriptor_of(table, address, level) = gpa | kind | PTE_ATTRIBUTE((u64)attribute) |
                                            PTE_INNER_SHAREABLE | PTE_ACCESSED | PTE_UXN |
                                            PTE_PXN;
}

static u64 window_page(unsigned page) {
    return WINDOW + page * granule_size();
}

static u64 pool_page(unsigned page) {
    return (u64)pool + page * granule_size();
}

static u64 *build(u64 ram_gpa) {
    u64 *table = new_table();
    for (unsigned page = 0; page < WINDOW_PAGES; page++)
        map(table, window_page(page), 3, pool_page(WINDOW_PAGES - 1 - page), ATTRIBUTE_TAGGED);
    map(table, window_page(UNTAGGED_PAGE), 3, pool_page(UNTAGGED_PAGE), ATTRIBUTE_UNTAGGED);
    map(table, window_page(DEVICE_PAGE), 3, UART_GPA, ATTRIBUTE_DEVICE);
    map(table, BLOCK, 2, ram_gpa, ATTRIBUTE_TAGGED);
    return table;
}

static void switch_on(u64 *table, u64 tg1) {
    u64 tcr = TCR_DEFAULT & ~(TCR_EPD1 | 3UL << 30 | 0x3fUL << 16);
    SYSREG_WRITE(ttbr1_el1, (u64)table);
    SYSREG_WRITE(tcr_el1, tcr | tg1 << 30 | (u64)(64 - UPPER_BITS) << 16);
    tlb_flush();
}

static void tag_window(void) {
    for (unsigned page = 0; page < WINDOW_PAGES; page++) {
        for (u64 offset = 0; offset < granule_size(); offset += GRANULE_BYTES) {
            u64 tag = page + offset / GRANULE_BYTES & TAG_MASK;
            u64 pointer = pointer_with_tag(window_page(page) + offset, (unsigned)tag);
            mte_stg(pointer, pointer);
            *(volatile u64 *)pointer = pointer;
        }
    }
}

void main(const struct boot *boot) {
    u64 granule = GRANULE_4K;
    const struct knob knobs[] = {{"granule", &granule, 0, 0, granule_words}};
    knobs_read("paged", boot->command_line, knobs, COUNT(knobs));
    granule_bits = granules[granule].bits;
    u64 *table = build(boot->ram_gpa);
    switch_on(table, granules[granule].tg1);
    tag_window();
    console_line("paged: granule=%lu window=%#lx block=%#lx pool=%#lx", granule_size(), WINDOW,
                 BLOCK, (u64)pool);
    for (;;)
        __asm__ volatile("wfi");
}
