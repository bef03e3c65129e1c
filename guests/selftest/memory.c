/* Scratch memory, probes, and the translation tables of the checks. */
#include "selftest.h"

#define TABLE_ENTRIES 512
#define MAP_LEVEL_1_INDEX 3

u8 scratch[SCRATCH_BYTES] __attribute__((aligned(4096)));

extern u64 identity_table[];
static u64 level_2[TABLE_ENTRIES] __attribute__((aligned(4096)));
static u64 level_3[TABLE_ENTRIES] __attribute__((aligned(4096)));

u64 scratch_pointer(unsigned tag) {
    return pointer_with_tag((u64)scratch + SCRATCH_BYTES / 2, tag);
}

void set_tags(u64 pointer, u64 bytes, unsigned tag) {
    for (u64 offset = 0; offset < bytes; offset += GRANULE_BYTES)
        mte_stg(pointer_with_tag(0, tag), pointer + offset);
}

void expect_tags(const char *what, u64 pointer, u64 bytes, unsigned tag) {
    for (u64 offset = 0; offset < bytes; offset += GRANULE_BYTES)
        expect_equal(what, tag, granule_tag(pointer + offset));
}

u64 peek(u64 pointer) {
    u64 value, tco = SYSREG_READ(tco);
    TCO_SET();
    value = *(volatile u64 *)pointer_untagged(pointer);
    SYSREG_WRITE(tco, tco);
    return value;
}

void poke(u64 pointer, u64 value) {
    u64 tco = SYSREG_READ(tco);
    TCO_SET();
    *(volatile u64 *)pointer_untagged(pointer) = value;
    SYSREG_WRITE(tco, tco);
}

u64 pattern(u64 pointer) {
    return 0xa5a5000000000000 ^ (pointer_untagged(pointer) * 0x10001);
}

void fill_pattern(u64 pointer, u64 bytes) {
    for (u64 offset = 0; offset < bytes; offset += sizeof(u64))
        poke(pointer + offset, pattern(pointer + offset));
}

void expect_pattern(const char *what, u64 pointer, u64 bytes) {
    for (u64 offset = 0; offset < bytes; offset += sizeof(u64))
        expect_equal(what, pattern(pointer + offset), peek(pointer + offset));
}

__asm__(".pushsection .text.probe_call, \"ax\"\n"
        ".global probe_call\n"
        "probe_call:\n\t"
        "stp x19, x30, [sp, #-16]!\n\t"
        "mov x19, x1\n\t"
        "mov x9, x0\n\t"
        "ldp x0, x1, [x19]\n\t"
        "ldp x2, x3, [x19, #16]\n\t"
        "ldp x4, x5, [x19, #32]\n\t"
        "blr x9\n\t"
        "stp x0, x1, [x19]\n\t"
        "stp x2, x3, [x19, #16]\n\t"
        "stp x4, x5, [x19, #32]\n\t"
        "ldp x19, x30, [sp], #16\n\t"
        "ret\n"
        ".popsection");

u64 probe_runs(const u8 *probe, u64 pointer) {
    struct registers registers = {{pointer}};
    trap_arm(0);
    probe_call(probe, &registers);
    expect_no_trap();
    return registers.x[0];
}

void probe_traps(const u8 *probe, u64 pointer, u64 esr, u64 far) {
    struct registers registers = {{pointer}};
    trap_arm(0);
    probe_call(probe, &registers);
    expect_trap(esr, far, (u64)probe);
}

static void enter(u64 *table, u64 index, u64 descriptor) {
    table[index] = descriptor;
    identity_table[MAP_LEVEL_1_INDEX] = (u64)level_2 | PTE_TABLE;
    level_2[0] = (u64)level_3 | PTE_TABLE;
    tlb_flush();
}

void map_page(u64 va, u64 pa, u64 attributes) {
    enter(level_3, (va - MAP_BASE) / PAGE_BYTES, pa | attributes | PTE_PAGE);
}

void map_block(u64 va, u64 pa, u64 attributes) {
    enter(level_2, (va - MAP_BASE) / BLOCK_BYTES, pa | attributes | PTE_BLOCK);
}

void unmap_all(void) {
    for (u64 i = 0; i < TABLE_ENTRIES; i++)
        level_2[i] = level_3[i] = 0;
    enter(level_3, 0, 0);
}

void unmap_level_1(void) {
    identity_table[MAP_LEVEL_1_INDEX] = 0;
    tlb_flush();
}

u64 map_scratch_page(unsigned index, u64 attributes) {
    u64 va = MAP_BASE + index * PAGE_BYTES;
    map_page(va, (u64)scratch + index * PAGE_BYTES, attributes);
    return va;
}
