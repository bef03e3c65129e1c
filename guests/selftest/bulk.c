/* LDGM, STGM, STZGM and DC GVA, GZVA, ZVA: whole blocks of tags. */
#include "selftest.h"

#define OLD_TAG 9
#define NEW_TAG 12
#define BASE_TAG 3

/* 64 bits of tags, all different from their neighbours. */
#define MIXED_TAGS 0x13579bdf02468aceUL

static void prepare(u64 block, u64 bytes) {
    set_tags(block - bytes, 3 * bytes, OLD_TAG);
    fill_pattern(block - bytes, 3 * bytes);
}

static void expect_surroundings(u64 block, u64 bytes) {
    expect_tags("tag before", block - bytes, bytes, OLD_TAG);
    expect_tags("tag behind", block + bytes, bytes, OLD_TAG);
    expect_pattern("data before", block - bytes, bytes);
    expect_pattern("data behind", block + bytes, bytes);
}

static void expect_zero(u64 pointer, u64 bytes) {
    for (u64 offset = 0; offset < bytes; offset += sizeof(u64))
        expect_equal("data", 0, peek(pointer + offset));
}

/* The nibble of `tags` that belongs to an address: its place in 256 bytes. */
static unsigned nibble(u64 tags, u64 address) {
    return tags >> (address / GRANULE_BYTES % 16 * 4) & 0xf;
}

/* The part of a 64-bit word of tags that one LDGM at `address` covers. */
static u64 covered(u64 address) {
    u64 bits = mte_bulk_bytes() / GRANULE_BYTES * 4;
    u64 mask = bits == 64 ? ~0UL : (1UL << bits) - 1;
    return mask << (address / GRANULE_BYTES % 16 * 4);
}

static void load_multiple(const void *argument) {
    (void)argument;
    u64 block = scratch_pointer(BASE_TAG), bytes = mte_bulk_bytes();
    for (u64 offset = 0; offset < bytes; offset += GRANULE_BYTES)
        set_tags(block + offset, GRANULE_BYTES, nibble(MIXED_TAGS, block + offset));
    expect_equal("LDGM", MIXED_TAGS & covered(block), mte_ldgm(block));
    expect_equal("LDGM in the block", MIXED_TAGS & covered(block), mte_ldgm(block + bytes - 1));
}

static void store_multiple_at(u64 block, u64 address) {
    u64 bytes = mte_bulk_bytes();
    prepare(block, bytes);
    mte_stgm(MIXED_TAGS, address);
    for (u64 offset = 0; offset < bytes; offset += GRANULE_BYTES)
        expect_equal("tag", nibble(MIXED_TAGS, block + offset), granule_tag(block + offset));
    expect_pattern("data", block, bytes);
    expect_surroundings(block, bytes);
}

static void store_multiple(const void *argument) {
    (void)argument;
    store_multiple_at(scratch_pointer(BASE_TAG), scratch_pointer(BASE_TAG));
}

static void store_multiple_aligns(const void *argument) {
    (void)argument;
    store_multiple_at(scratch_pointer(BASE_TAG), scratch_pointer(BASE_TAG) + 0x1f);
}

/* The second block of 256 bytes: with BS < 6 its nibbles sit elsewhere in the word. */
static void store_multiple_elsewhere(const void *argument) {
    (void)argument;
    u64 block = scratch_pointer(BASE_TAG) + 3 * mte_bulk_bytes();
    store_multiple_at(block, block);
}

static void multiple_without_tag_access(const void *argument) {
    (void)argument;
    u64 block = scratch_pointer(BASE_TAG), bytes = mte_bulk_bytes();
    prepare(block, bytes);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    expect_equal("LDGM", 0, mte_ldgm(block));
    mte_stgm(MIXED_TAGS, block);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT);
    expect_tags("tag", block, bytes, OLD_TAG);
}

/* What covers a DC ZVA block: which granules change, and whether the data goes. */
struct zero_case {
    void (*operation)(u64 address);
    unsigned tag;
    bool zeroes;
};

static void store_zero_multiple(u64 address) {
    mte_stzgm(0xf0 | NEW_TAG, address); /* only bits 3:0 count */
}

static void zero_block_at(const struct zero_case *zero, u64 offset) {
    u64 block = scratch_pointer(BASE_TAG), bytes = mte_zero_bytes();
    prepare(block, bytes);
    zero->operation(block + offset);
    expect_tags("tag", block, bytes, zero->tag);
    if (zero->zeroes)
        expect_zero(block, bytes);
    else
        expect_pattern("data", block, bytes);
    expect_surroundings(block, bytes);
}

static void zero_block(const void *argument) {
    zero_block_at(argument, 0);
}

static void zero_block_aligns(const void *argument) {
    zero_block_at(argument, mte_zero_bytes() - 5);
}

static void zero_block_without_tag_access(const void *argument) {
    const struct zero_case *zero = argument;
    u64 block = scratch_pointer(BASE_TAG), bytes = mte_zero_bytes();
    prepare(block, bytes);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT & ~SCTLR_ATA);
    zero->operation(block);
    SYSREG_WRITE(sctlr_el1, SCTLR_DEFAULT);
    expect_tags("tag", block, bytes, OLD_TAG);
    if (zero->zeroes)
        expect_zero(block, bytes);
    expect_surroundings(block, bytes);
}

/* DC ZVA changes no tag and is the only one of the family that is checked. */
static void plain_zero(const void *argument) {
    (void)argument;
    u64 block = scratch_pointer(OLD_TAG), bytes = mte_zero_bytes();
    prepare(block, bytes);
    dc_zva(block + bytes / 2);
    expect_zero(block, bytes);
    expect_tags("tag", block, bytes, OLD_TAG);
    expect_surroundings(block, bytes);
}

PROBE(dc_zva, "dc zva, x0");

static bool in_block(u64 address, u64 block) {
    return address - block < mte_zero_bytes();
}

/* A write; FAR is the operand or the first granule that differs, as the implementation
 * likes (Arm ARM, AArch64.MemZero). QEMU 10.0 reports a read, somewhere in the block. */
static void expect_zero_fault(u64 block, u64 differing) {
    struct registers registers = {{block}};
    trap_arm(0);
    probe_call(probe_dc_zva, &registers);
    const struct frame *frame = trap_taken();
    expect_true("exception taken", frame != NULL);
    if (!frame)
        return;
    u64 esr = frame->esr & ESR_LOW_MASK, far = frame->far & FAR_KNOWN_MASK;
    expect_equal("ELR_EL1", (u64)probe_dc_zva, frame->elr);
    if (esr == ESR_TAG_CHECK_READ && in_block(far, block)) {
        pass_as_qemu();
        return;
    }
    expect_equal("ESR_EL1", ESR_TAG_CHECK_WRITE, esr);
    if (far != block)
        expect_equal("FAR_EL1", differing, far);
}

static void plain_zero_is_checked(const void *argument) {
    (void)argument;
    u64 block = scratch_pointer(BASE_TAG), bytes = mte_zero_bytes();
    prepare(block, bytes);
    expect_zero_fault(block, block);
    expect_pattern("data", block, bytes);
}

/* One wrong granule inside the block is enough. */
static void plain_zero_checks_all(const void *argument) {
    (void)argument;
    u64 block = scratch_pointer(OLD_TAG), bytes = mte_zero_bytes();
    u64 last = block + bytes - GRANULE_BYTES;
    prepare(block, bytes);
    set_tags(last, GRANULE_BYTES, NEW_TAG);
    expect_zero_fault(block, last);
    expect_pattern("data of the granule", last, GRANULE_BYTES);
}

#define ZERO(function, ...) function, &(const struct zero_case){__VA_ARGS__}

static const struct check bulk_checks[] = {
    {"ldgm", load_multiple, NULL},
    {"stgm", store_multiple, NULL},
    {"stgm-misaligned", store_multiple_aligns, NULL},
    {"stgm-fourth-block", store_multiple_elsewhere, NULL},
    {"ldgm-stgm-ata-off", multiple_without_tag_access, NULL},
    {"stzgm", ZERO(zero_block, store_zero_multiple, NEW_TAG, true)},
    {"stzgm-misaligned", ZERO(zero_block_aligns, store_zero_multiple, NEW_TAG, true)},
    {"stzgm-ata-off", ZERO(zero_block_without_tag_access, store_zero_multiple, NEW_TAG, true)},
    {"dc-gva", ZERO(zero_block, dc_gva, BASE_TAG, false)},
    {"dc-gva-misaligned", ZERO(zero_block_aligns, dc_gva, BASE_TAG, false)},
    {"dc-gva-ata-off", ZERO(zero_block_without_tag_access, dc_gva, BASE_TAG, false)},
    {"dc-gzva", ZERO(zero_block, dc_gzva, BASE_TAG, true)},
    {"dc-gzva-misaligned", ZERO(zero_block_aligns, dc_gzva, BASE_TAG, true)},
    {"dc-gzva-ata-off", ZERO(zero_block_without_tag_access, dc_gzva, BASE_TAG, true)},
    {"dc-zva", plain_zero, NULL},
    {"dc-zva-checked", plain_zero_is_checked, NULL},
    {"dc-zva-checks-whole-block", plain_zero_checks_all, NULL},
};

TOPIC(bulk);
